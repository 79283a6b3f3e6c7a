#!/bin/sh
# cuda_gate.sh [--markdown] [--allow PATTERN] REPORT...: registers, shared memory and spills of every kernel, from the reports that the build
# leaves beside the objects (BUILD/kernels/cuda/*.ptxas). Fails when a kernel spills registers or has a stack frame (an array that
# went to local memory), when ptxas gave up on asynchronous products or on register counts (C75..), or when there is nothing to read. A kernel that matches PATTERN (awk's) is shown and let through.
set -eu
markdown=0 allow='^$'
[ "${1:-}" = --markdown ] && markdown=1 && shift
[ "${1:-}" = --allow ] && allow=$2 && shift 2
[ $# -gt 0 ] && [ -e "$1" ] || { echo "cuda_gate.sh: no reports; build with -DDLENS_CUDA=ON first" >&2; exit 2; }
cat "$@" | { command -v c++filt >/dev/null 2>&1 && c++filt || cat; } | awk -v md=$markdown -v allow="$allow" '
/Compiling entry function/ {
    name = $0; sub(/.*entry function ./, "", name); arch = name
    sub(/. for .sm_.*/, "", name); sub(/.* for .sm_/, "", arch); sub(/.$/, "", arch)
    gsub(/\(anonymous namespace\)::|_GLOBAL__N__[0-9a-z_]*::|void /, "", name); sub(/\(.*/, "", name)
}
/\(C75[0-9][0-9]\)/ { print; bad++ }
/bytes stack frame/ { stack = $1; stores = $5; loads = $9 }
/Used [0-9]+ registers/ {
    regs = $0; sub(/.*Used /, "", regs); sub(/ .*/, "", regs)
    smem = 0; if (match($0, /[0-9]+ bytes smem/)) smem = substr($0, RSTART, RLENGTH) + 0
    if (n++ == 0) {
        if (md) print "| kernel | sm | registers | static smem | stack | spill stores | spill loads |\n|---|---|---|---|---|---|---|"
        else printf "%-60s %5s %9s %11s %6s %6s %6s\n", "kernel", "sm", "registers", "static smem", "stack", "stores", "loads"
    }
    printf md ? "| `%s` | %s | %d | %d | %d | %d | %d |\n" : "%-60s %5s %9d %11d %6d %6d %6d\n", name, arch, regs, smem, stack, stores, loads
    if (stack + stores + loads > 0) { if (name ~ allow) let++; else bad++ }
}
END {
    if (!n) { print "cuda_gate.sh: no kernels in the reports" > "/dev/stderr"; exit 2 }
    printf "%s%d kernels, %d with local memory, %d more let through\n", md ? "\n" : "", n, bad, let
    exit bad > 0
}'
