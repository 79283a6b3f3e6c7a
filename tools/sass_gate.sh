#!/bin/sh
# sass_gate.sh [--markdown] OBJECT...: looks at the machine code of the Hopper kernels (BUILD/kernels/cuda/hopper_*.o). Each must
# multiply by wgmma (HGMMA, QGMMA), load by TMA (UTMALDG) and keep out of local memory (LDL, STL); attention must have its exponentials
# between the wait for the scores and the wait for P V, so that both units work at once: compilers like to move that wait up.
# Products whose teams take turns must hand over (BAR.ARV) right behind their loop, with the last products under way.
# Needs cuobjdump: the toolkit's, or CUOBJDUMP=PROGRAM (Python's wheel nvidia-cuda-cuobjdump has one). Exit status: 77 without
# it, 1 when a kernel fails, 2 when there is nothing to read.
set -eu
markdown=0
[ "${1:-}" = --markdown ] && markdown=1 && shift
[ $# -gt 0 ] && [ -e "$1" ] || { echo "sass_gate.sh: no objects; build with -DDLENS_CUDA=ON and 90a in -DDLENS_CUDA_ARCHS" >&2; exit 2; }
dump=${CUOBJDUMP:-$(command -v cuobjdump || ls "${CUDA_HOME:-/usr/local/cuda}/bin/cuobjdump" 2>/dev/null || true)}
[ -n "$dump" ] || { echo "skipped: no cuobjdump on this machine (CUOBJDUMP=PROGRAM names one)"; exit 77; }
for object; do "$dump" --dump-sass "$object"; done | { command -v c++filt >/dev/null 2>&1 && c++filt || cat; } | awk -v md=$markdown '
function close_kernel() {
    if (name == "") return
    wrong = ""
    if (!hgmma) wrong = wrong " no wgmma"
    if (!tma) wrong = wrong " no UTMALDG"
    if (loc) wrong = wrong " " loc " accesses to local memory"
    if (name ~ /attn/ && most < 16) wrong = wrong " exponentials do not overlap P V"
    if (name ~ /conv/ && late > 40) wrong = wrong " the turn is handed over " late " instructions late"
    if (n++ == 0) {
        if (md) print "| kernel | instructions | wgmma | UTMALDG | LDL, STL | exponentials beside P V | |\n|---|---|---|---|---|---|---|"
        else printf "%-58s %6s %6s %8s %6s %8s\n", "kernel", "instr.", "wgmma", "UTMALDG", "local", "overlap"
    }
    printf md ? "| `%s` | %d | %d | %d | %d | %d | %s |\n" : "%-58s %6d %6d %8d %6d %8d %s\n", name, instr, hgmma, tma, loc, most, wrong
    if (wrong != "") bad++
}
/Function : / {
    close_kernel()
    name = $0; sub(/.*Function : /, "", name); sub(/^void /, "", name); sub(/\(.*/, "", name)
    instr = hgmma = tma = loc = between = ex = most = since = late = 0
}
/^[ \t]+\/\*[0-9a-f]+\*\// {
    instr++
    if (/ [HQ]GMMA/) hgmma++
    if (/ UTMALDG/) tma++
    if (/ (LDL|STL)[. ]/) loc++
    if (/ MUFU.EX2/) ex++
    if (/ WARPGROUP.DEPBAR.LE gsb0, 0x1/) { between = 1; ex = 0; since = instr }
    if (/ BAR.ARV/ && since) { late = instr - since; since = 0 }
    if (/ WARPGROUP.DEPBAR.LE gsb0, 0x0/) { if (between && ex > most) most = ex; between = 0 }
}
END {
    close_kernel()
    if (!n) { print "sass_gate.sh: no kernels in the objects" > "/dev/stderr"; exit 2 }
    printf "%s%d kernels, %d not as they should be\n", md ? "\n" : "", n, bad
    exit bad > 0
}'
