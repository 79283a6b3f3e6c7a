#!/bin/sh
# nvcc.sh REPORT COMMAND...: runs nvcc with ptxas's resource report on, which goes to the file REPORT; everything else
# that it says goes to stderr. Used by kernels/cuda/CMakeLists.txt, read by tools/cuda_gate.sh.
report=$1
shift
rm -f "$report"
"$@" -Xptxas -v >"$report.all" 2>&1
status=$?
grep -E '^ptxas info|bytes stack frame' "$report.all" >"$report"
grep -vE '^ptxas info|bytes stack frame|^$' "$report.all" >&2
rm -f "$report.all"
exit $status
