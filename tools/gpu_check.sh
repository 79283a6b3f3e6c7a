#!/bin/sh
# gpu_check.sh: everything that a GPU must show, in one command: configure, build, GPU tests, compute-sanitizer, the
# benchmarks; one summary in Markdown and JSON. It goes on after a failure and tells all of them at the end. Needs a CUDA
# toolkit, CMake and a C and C++ compiler, beside the libraries that the configuration names if they are missing.
#
#   tools/gpu_check.sh [--out DIR] [--build DIR] [--libs DIR] [--prefix DIR] [--archs LIST] [--stages LIST] [--seconds N] [--model DIR] [--quick]
#
#   --out DIR      summary.md, summary.json and one log for each step            (gpu_check)
#   --build DIR    build folder, kept for the next call                          (build-gpu)
#   --libs DIR     where cuBLASLt lies, as tools/get_cuda_libs.sh leaves it      (searched: the toolkit, Python's wheels)
#   --prefix DIR   folder with jansson, PCRE2, utf8proc, libpng, zlib, oneDNN, cmocka: their Debian packages unpacked by dpkg-deb -x,
#                  with and without -dev (libdnnl2 needs ocl-icd-libopencl1 besides)
#   --archs LIST   code for these compute capabilities                           (the machine's own)
#   --stages LIST  of build,test,sanitize,bench, with commas                     (all)
#   --seconds N    time for all of it: no step runs past it, the rest is left out, the summary is written       (no limit)
#   --model DIR    benchmark steps and sweeps of this model folder               (SD 1.5's shapes with random weights in memory)
#   --quick        a short benchmark: the kernels of SD 1.5 alone, 8 steps, batches of 1 and 4 images
#
# Exit status: 0 when no step failed.
set -u

root=$(cd "$(dirname "$0")/.." && pwd)
out=gpu_check build=build-gpu libs= prefix= archs= stages=build,test,sanitize,bench seconds= model= quick=no
while [ $# -gt 0 ]; do
    case $1 in
    --quick) quick=yes; shift; continue ;;
    -h | --help) sed -n '2,/^set -u/{/^set -u/d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
    esac
    [ $# -gt 1 ] || { echo "gpu_check.sh: $1 needs a value" >&2; exit 2; }
    case $1 in
    --out) out=$2 ;;
    --build) build=$2 ;;
    --libs) libs=$2 ;;
    --prefix) prefix=$2 ;;
    --archs) archs=$2 ;;
    --stages) stages=$2 ;;
    --seconds) seconds=$2 ;;
    --model) model=$2 ;;
    *) echo "gpu_check.sh: $1: no such option" >&2; exit 2 ;;
    esac
    shift 2
done
mkdir -p "$out" "$build" || exit 1
out=$(cd "$out" && pwd) build=$(cd "$build" && pwd)
md=$out/summary.md steps=$out/steps.txt
: >"$steps"
failed=0 started=$(date +%s)

has() { case ,$stages, in *,"$1",*) return 0 ;; *) return 1 ;; esac; }
now() { date +%s; }
escape() { printf '%s' "$1" | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g'; }

# note NAME STATE SECONDS TEXT: one line of the summary.
note() {
    printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" >>"$steps"
    printf '%-34s %-7s %5s s  %s\n' "$1" "$2" "$3" "$4"
    [ "$2" != failed ] || failed=$((failed + 1))
}

# step NAME LIMIT COMMAND...: runs with a time limit and a log; the last line that matters goes into the summary.
step() {
    name=$1 limit=$2
    shift 2
    log=$out/$(printf '%s' "$name" | tr ' /:' '___').log
    begin=$(now)
    if [ -n "$seconds" ]; then
        left=$((started + seconds - begin))
        [ $left -ge 5 ] || { note "$name" skipped 0 "no time left"; return 77; }
        [ $limit -le $left ] || limit=$left
    fi
    if command -v timeout >/dev/null 2>&1; then timeout "$limit" "$@" >"$log" 2>&1; else "$@" >"$log" 2>&1; fi
    rc=$?
    took=$(($(now) - begin))
    line=$(grep -E '(error|Error|ERROR|FAILED|failed|budget.*not|skipped|tests? passed|off the CPU)' "$log" | tail -1 | cut -c1-160)
    case $rc in
    0) note "$name" ok $took "$line" ;;
    77) note "$name" skipped $took "$line" ;;
    124) note "$name" failed $took "ran past $limit s; $log" ;;
    *) note "$name" failed $took "exit $rc: $line"; tail -25 "$log" | sed 's/^/    /' ;;
    esac
    return $rc
}

# ---- the machine ----
gpu=$(nvidia-smi --query-gpu=name,compute_cap,memory.total,driver_version --format=csv,noheader 2>/dev/null | head -1)
[ -n "$gpu" ] || gpu="no GPU seen by nvidia-smi"
cap=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d '. ')
[ -n "$archs" ] || archs=$cap
[ "$archs" != 90 ] || archs=90a
[ -n "$archs" ] || archs="80;90a"
nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null || echo none)
commit=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)
echo "dlens $commit on: $gpu; nvcc $("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p'); $(nproc) cores; code for $archs"

# cuBLASLt out of Python's wheels (a machine with PyTorch has them), unless somebody said where.
if [ -z "$libs" ]; then
    for python in python3 python /opt/*/.venv/bin/python3; do
        dir=$("$python" -c 'import nvidia,os;print(os.path.dirname(list(nvidia.__path__)[0]))' 2>/dev/null) || continue
        if ls "$dir"/nvidia/cu*/lib/libcublasLt.so.* >/dev/null 2>&1; then libs=$dir; break; fi
    done
fi
if [ -n "$prefix" ]; then
    prefix=$(cd "$prefix" && pwd) || exit 1
    for dir in "$prefix"/usr/lib/*-linux-gnu "$prefix"/usr/lib "$prefix"/lib/*-linux-gnu "$prefix"/lib; do
        [ -d "$dir" ] && LD_LIBRARY_PATH=$dir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    done
    export LD_LIBRARY_PATH
fi

# ---- configure and build ----
generator=
if ! [ -e "$build/CMakeCache.txt" ] && command -v ninja >/dev/null 2>&1; then generator="-G Ninja"; fi
if has build; then
    # shellcheck disable=SC2086
    if ! step configure 120 cmake -S "$root" -B "$build" $generator -DDLENS_CORE_ONLY=ON -DDLENS_TESTS=ON "-DDLENS_TESTS_ONLY=^cuda/" \
        -DDLENS_CUDA=ON "-DDLENS_CUDA_ARCHS=$archs" ${libs:+"-DDLENS_CUDA_LIBS=$libs"} ${prefix:+"-DCMAKE_PREFIX_PATH=$prefix/usr;$prefix"}; then
        echo "Missing libraries are named above: unpack their packages into one folder (dpkg-deb -x NAME.deb DIR) and give it by --prefix DIR;"
        echo "cuBLASLt: tools/get_cuda_libs.sh DIR where there is a network, then --libs DIR."
    fi
    on= # after a failure too: one test that does not compile keeps nothing else from being built
    ! [ -e "$build/build.ninja" ] || on="-- -k 0"
    # shellcheck disable=SC2086
    step build 600 cmake --build "$build" --parallel "$(nproc)" $on
    step "the program starts" 60 sh "$root/tests/cuda/builds.sh" "$build/dlens"
    step "spill gate" 60 sh -c "exec sh '$root/tools/cuda_gate.sh' --allow 'attn_cfg<.*, 256, 1, .*, true>' '$build'/kernels/cuda/*.ptxas"
    if ls "$build"/kernels/cuda/hopper_*.o >/dev/null 2>&1; then
        step "machine code of the Hopper tier" 120 sh "$root/tools/sass_gate.sh" "$build"/kernels/cuda/hopper_*.o
    fi
    sh "$root/tools/cuda_gate.sh" --markdown "$build"/kernels/cuda/*.ptxas >"$out/registers.md" 2>/dev/null
fi
dlens=$build/dlens

# The GPU tests as the build has them (CTest's label gpu), what all the rest stands on first; small: those whose kernels are
# small enough for compute-sanitizer.
tests=$(ctest --test-dir "$build" -N -L gpu 2>/dev/null | sed -n 's|^ *Test *#[0-9]*: .*cuda/||p')
first="gemm conv attn norm misc graph tune demo ways"
tests="$(for t in $first; do echo "$tests" | grep -x "$t"; done) $(for t in $tests; do case " $first " in *" $t "*) ;; *) echo "$t" ;; esac; done)"
small=$(for t in $tests; do case $t in demo | stream | ways | cudnn | trace) ;; *) echo "$t" ;; esac; done)
tests=$(echo $tests)

# The Hopper tier first, where it runs, also at shapes for which it is not chosen. What fails is tried once more on memory
# that lies on the GPU; everything after that goes without the tier, but for the test of the ways, which comes last then.
hopper=
[ "$cap" != 90 ] || hopper="attn conv gemm graph"
if has test && [ -n "$hopper" ]; then
    for t in $hopper; do
        step "test cuda/$t, Hopper tier" 90 env DLENS_TEST_OWN=1 DLENS_CUDA_TIER=hopper "$build/tests/test_cuda_$t" && continue
        [ $? -ne 77 ] || continue
        step "test cuda/$t, Hopper tier, managed" 90 env DLENS_TEST_MANAGED=1 DLENS_TEST_OWN=1 DLENS_CUDA_TIER=hopper "$build/tests/test_cuda_$t"
        export DLENS_CUDA_TIER=portable
    done
    if [ "${DLENS_CUDA_TIER:-}" = portable ]; then
        note "Hopper tier" failed 0 "left out of all that follows"
        hopper= tests="$(for t in $tests; do [ "$t" = ways ] || echo "$t"; done) ways"
    fi
fi
if [ -z "$tests" ] && { has test || has sanitize; }; then note "list of GPU tests" failed 0 "CTest finds none in $build"; fi

# ---- tests ----
if has test; then
    step "demo on the GPU" 120 "$dlens" demo --device cuda --json --out "$out/demo"
    for t in $tests; do step "test cuda/$t" 240 "$build/tests/test_cuda_$t"; done
    for t in gemm e4m3 conv graph demo; do step "test cuda/$t, own kernels" 120 env DLENS_TEST_OWN=1 "$build/tests/test_cuda_$t"; done
    for t in $hopper; do step "test cuda/$t, portable tier" 120 env DLENS_CUDA_TIER=portable "$build/tests/test_cuda_$t"; done
    step "no such GPU" 60 sh -c "'$dlens' demo --device cuda:99 --out '$out/none'; [ \$? -eq 4 ]"
fi

# ---- compute-sanitizer ----
if has sanitize; then
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
    if [ -z "$sanitizer" ]; then
        note compute-sanitizer skipped 0 "not installed"
    else
        for t in $small; do
            step "memcheck cuda/$t" 240 env DLENS_TEST_OWN=1 "$sanitizer" --tool memcheck --error-exitcode 9 "$build/tests/test_cuda_$t"
        done
        for t in $small; do
            step "racecheck cuda/$t" 240 env DLENS_TEST_OWN=1 "$sanitizer" --tool racecheck --error-exitcode 9 "$build/tests/test_cuda_$t"
        done
        for tool in memcheck racecheck synccheck; do
            for t in attn conv; do
                [ -z "$hopper" ] || step "$tool cuda/$t, Hopper tier" 240 env DLENS_TEST_OWN=1 DLENS_CUDA_TIER=hopper \
                    "$sanitizer" --tool $tool --error-exitcode 9 "$build/tests/test_cuda_$t"
            done
        done
        step "synccheck cuda/attn" 240 "$sanitizer" --tool synccheck --error-exitcode 9 "$build/tests/test_cuda_attn"
    fi
fi

# ---- benchmark ----
field() { sed -n "s/.*\"$1\":\\([0-9.e+-]*\\).*/\\1/p" "$2" | head -1; }
bench=$out/bench.txt
: >"$bench"
likes="sd15 sdxl if flux" batches="1 4 12" count=20
[ $quick = no ] || { likes=sd15 batches="1 4" count=8; }
case $gpu in # the card's entry in the table of predictions
*H200*) card=h200 ;;
*5090*) card=rtx5090 ;;
*4090*) card=rtx4090 ;;
*3090*) card=rtx3090 ;;
*A6000*) card=a6000 ;;
*) card= ;;
esac
if has bench; then
    # Every op of a step, alone: checked, timed, beside the roofline and cuBLASLt.
    for like in $likes; do
        step "kernels $like" 560 "$dlens" bench kernels --like "$like" --device cuda --save "$out/kernels-$like.json"
        [ -z "$card" ] || ! [ -s "$out/kernels-$like.json" ] ||
            step "prediction $like" 60 "$dlens" bench --predict "$card" --like "$like" --layers 12 --batch 12 --against "$out/kernels-$like.json"
    done
    # Whole steps; -own: our products instead of cuBLASLt's.
    source="--like sd15"
    [ -z "$model" ] || source="--model $model"
    for type in f16 bf16 f16-own; do
        own=0
        [ $type != f16-own ] || own=1
        for n in $batches; do
            name="model $type, $n images a batch"
            # shellcheck disable=SC2086
            step "$name" 300 env DLENS_CUDA_OWN=$own "$dlens" bench model $source --batch "$n" --steps $count --dtype "${type%-own}" --device cuda --json
            log=$out/$(printf '%s' "$name" | tr ' /:' '___').log
            median=$(field step_ms "$log") least=$(field step_ms_min "$log")
            # Busy and idle time of a traced step, where there is CUPTI.
            busy=$(field busy_ms "$log") gap=$(field gap_ms "$log") largest=$(field largest_gap_us "$log")
            [ -z "$median" ] || printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$type" "$n" "$median" "$least" \
                "${busy:-null}" "${gap:-null}" "${largest:-null}" >>"$bench"
        done
    done
    # A step of each model: kinds of op, gaps, the kernels that take the time.
    for like in $likes; do
        step "step of $like" 300 "$dlens" bench model --like "$like" --device cuda --save "$out/step-$like.json"
    done
    # A whole sweep: 12 layers, 50 steps.
    # shellcheck disable=SC2086
    step "sweep f16" 560 "$dlens" bench sweep $source --dtype f16 --layers 12 --batch "$(echo $batches | tr ' ' ',')" --device cuda --save "$out/sweep.json"
    # Every kernel that there is for each op, the ones that were not chosen too.
    for like in $likes; do
        step "ways of $like" 560 "$dlens" bench kernels --like "$like" --ways --no-check --device cuda --save "$out/ways-$like.json"
    done
    # Other programs, where Python has them; they want a checkpoint on the disk (2 GB).
    python=
    for p in python3 python /opt/*/.venv/bin/python3; do
        if "$p" -c 'import diffusers, torch; assert torch.cuda.is_available()' >/dev/null 2>&1; then python=$p; break; fi
    done
    if [ -z "$python" ]; then
        note "other programs" skipped 0 "no Python with diffusers and a CUDA torch"
    else
        if [ -z "$model" ]; then
            model=$build/sd15-synthetic
            [ -e "$model/model_index.json" ] || step "make synthetic SD 1.5" 400 "$dlens" synth --like sd15 --scale full --dtype f16 --out "$model"
        fi
        step "other programs" 1800 "$python" "$root/tools/bench/peers/run.py" --dlens "$dlens" --model "$model" --out "$out/peers" --device cuda --dtype f16 --layers 1:13
    fi
fi

# ---- summary ----
{
    echo "# dlens on a GPU"
    echo
    echo "Commit $commit, $(date -u +%Y-%m-%dT%H:%MZ). $gpu. nvcc $("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/\1/p'), code for $archs."
    echo
    echo "| step | state | s | |"
    echo "|---|---|---|---|"
    tr '|' '/' <"$steps" | awk -F'\t' '{ printf "| %s | %s | %s | %s |\n", $1, $2, $3, $4 }'
    if [ -s "$bench" ]; then
        echo
        echo "SD 1.5 at 512x512 with guidance (2 rows an image), ms a step:"
        echo
        echo "| type | images a batch | median | least | ms an image and step | kernels (traced) | gaps (traced) | largest gap, us |"
        echo "|---|---|---|---|---|---|---|---|"
        awk -F'\t' 'function n(v) { return v == "null" ? "-" : sprintf("%.2f", v) }
            { printf "| %s | %s | %.2f | %.2f | %.2f | %s | %s | %s |\n", $1, $2, $3, $4, $3 / $2, n($5), n($6), n($7) }' "$bench"
    fi
    for like in $likes; do
        [ -s "$out/kernels_$like.log" ] || continue
        echo
        echo "## Kernels of a step of $like"
        echo
        sed 's/^/    /' "$out/kernels_$like.log"
    done
    for log in "$out"/prediction_*.log "$out"/step_of_*.log "$out/sweep_f16.log" "$out"/ways_of_*.log; do
        [ -s "$log" ] || continue
        echo
        echo "## $(basename "$log" .log | tr _ ' ')"
        echo
        sed 's/^/    /' "$log"
    done
    if [ -s "$out/peers/peers.md" ]; then echo; echo "## Other programs"; echo; cat "$out/peers/peers.md"; fi
    if [ -s "$out/registers.md" ]; then echo; echo "## Registers and local memory"; echo; cat "$out/registers.md"; fi
} >"$md"
{
    printf '{"commit":"%s","gpu":"%s","archs":"%s","failed":%d,"steps":[' "$(escape "$commit")" "$(escape "$gpu")" "$(escape "$archs")" "$failed"
    comma=
    while IFS="$(printf '\t')" read -r name state seconds text; do
        printf '%s{"name":"%s","state":"%s","seconds":%s,"text":"%s"}' "$comma" "$(escape "$name")" "$state" "$seconds" "$(escape "$text")"
        comma=,
    done <"$steps"
    printf '],"models":['
    comma=
    while IFS="$(printf '\t')" read -r type n median least busy gap largest; do
        printf '%s{"type":"%s","batch":%s,"step_ms":%s,"step_ms_min":%s,"busy_ms":%s,"gap_ms":%s,"largest_gap_us":%s}' "$comma" \
            "$type" "$n" "$median" "$least" "$busy" "$gap" "$largest"
        comma=,
    done <"$bench"
    printf ']}\n'
} >"$out/summary.json"
rm -f "$steps" "$bench"
echo "$failed steps failed; $md"
[ "$failed" -eq 0 ]
