#!/bin/bash
# Builds dlens and runs every test: gcc in Release, gcc with AddressSanitizer and UBSan (assertions on), clang with the
# fuzz targets, and with nvcc the CUDA program. Warnings are errors. All end in one run of ctest, whose closing lines are
# the last.
#
#   tools/test.sh                 the fast suite: each fuzz target for 30 seconds, CUDA code for one architecture
#   tools/test.sh --full          also all tests built by clang, 10 minutes of fuzzing each, CUDA code for all
#                                 architectures, and the full-size runs, which need DLENS_FULL_DIR: a folder with 10 GB
#                                 of room that is kept between runs
#   tools/test.sh [--full] -R cli/      whatever follows goes to ctest
#
# The CUDA program needs nvcc, but no GPU, and cuBLASLt: the toolkit's, or DLENS_CUDA_LIBS=DIR, or what
# tools/get_cuda_libs.sh fetches into its cache folder (not with DLENS_SKIP_SETUP=1). Without them it is left out.
#
# Builds are kept in build-test/. Test data beside the checkout (../shared) is used where it is there; cases that were
# left out are listed before the closing lines.
set -euo pipefail
cd "$(dirname "$0")/.."

full=
case ${1:-} in
--full) full=1; shift ;;
-h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
esac
if [ -n "$full" ] && [ -z "${DLENS_FULL_DIR:-}" ]; then
    echo "test.sh: DLENS_FULL_DIR is not set: the full-size runs will be skipped" >&2
fi

tools/setup.sh

jobs=$(nproc)
common=(-DDLENS_WERROR=ON -DDLENS_CUDA=OFF)
if command -v ccache >/dev/null; then common+=(-DCMAKE_C_COMPILER_LAUNCHER=ccache); fi
if command -v ninja >/dev/null; then common+=(-G Ninja); fi

# configure NAME OPTION...: one configuration, in build-test/NAME. Its tests are called NAME/...
configure() {
    local name=$1
    shift
    # A folder that another generator made cannot be taken over.
    if ! cmake -S . -B "build-test/$name" "${common[@]}" -DDLENS_TEST_PREFIX="$name/" "$@" >"build-test/$name.log" 2>&1; then
        rm -rf "build-test/$name"
        if ! cmake -S . -B "build-test/$name" "${common[@]}" -DDLENS_TEST_PREFIX="$name/" "$@" >"build-test/$name.log" 2>&1; then
            cat "build-test/$name.log"
            return 1
        fi
    fi
}

# build NAME OPTION...: configures, builds, and has its tests run.
names=()
build() {
    local name=$1 from=$SECONDS
    shift
    echo "== $name: $*"
    configure "$name" "$@"
    sed -n '/^-- dlens/,/^-- *$/p' "build-test/$name.log"
    cmake --build "build-test/$name" -j "$jobs"
    echo "== $name: built in $((SECONDS - from)) s"
    names+=("$name")
}

# What the CUDA program lacks on this machine; nothing when it can be built.
cuda_lacks() { sed -n 's/^-- *CUDA: off: //p' build-test/nvcc.log; }

mkdir -p build-test

# The CUDA program: one architecture, its tests alone (they skip without a GPU). What it lacks is fetched meanwhile.
if [ -n "$full" ]; then archs=all; else archs=80; fi
libs=${DLENS_CUDA_LIBS:-${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/dlens/cuda-libs}
cuda=(-DCMAKE_C_COMPILER=gcc -DDLENS_TESTS=ON -DDLENS_TESTS_ONLY=^cuda/ -DDLENS_CUDA=AUTO "-DDLENS_CUDA_ARCHS=$archs"
    "-DDLENS_CUDA_LIBS=$libs")
fetch=
configure nvcc "${cuda[@]}"
case $(cuda_lacks) in
*get_cuda_libs*)
    if [ "${DLENS_SKIP_SETUP:-}" != 1 ]; then
        timeout 600 tools/get_cuda_libs.sh "$libs" >build-test/get_cuda_libs.log 2>&1 &
        fetch=$!
        trap 'kill $fetch 2>/dev/null || true' EXIT
    fi
    ;;
esac

build gcc -DCMAKE_C_COMPILER=gcc -DDLENS_TESTS=ON
build asan -DCMAKE_C_COMPILER=gcc -DDLENS_TESTS=ON -DDLENS_SANITIZE=address,undefined \
    -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_FLAGS_DEBUG="-O2 -g"
if [ -n "$full" ]; then clang_tests=ON fuzz_seconds=600; else clang_tests=OFF fuzz_seconds=30; fi
build clang -DCMAKE_C_COMPILER=clang -DDLENS_FUZZ=ON -DDLENS_TESTS=$clang_tests -DDLENS_FUZZ_SECONDS=$fuzz_seconds

left_out=
if [ -n "$fetch" ]; then
    fetched=
    wait "$fetch" || fetched=" (tried: $(grep -v '^ *$' build-test/get_cuda_libs.log | tail -n 1))"
    trap - EXIT
    configure nvcc "${cuda[@]}"
fi
if [ -z "$(cuda_lacks)" ]; then
    build nvcc "${cuda[@]}"
else
    left_out="  nvcc: the CUDA program: $(cuda_lacks)${fetched:-}"
fi

# One run over all of them: ctest takes a folder whose test file lists other folders.
for name in "${names[@]}"; do echo "subdirs($name)"; done >build-test/CTestTestfile.cmake
log=build-test/ctest.log
status=0
ctest --test-dir build-test -j "$jobs" --output-on-failure --timeout $((full ? 7200 : 900)) "$@" 2>&1 |
    tee "$log" | sed -u '/% tests passed/,$d' || status=$?

# What was left out, then ctest's own last lines, which say how it went. ctest keeps the output of passing tests here.
skipped=$(awk '/^[0-9]+\/[0-9]+ Testing: / { test = $3 }
    $1 == "[" && $2 == "SKIPPED" && NF == 4 && !seen[test, $4]++ { print "  " test ": " $4 }' \
    build-test/Testing/Temporary/LastTest.log)
if [ -n "$skipped$left_out" ]; then
    printf 'left out (why: build-test/Testing/Temporary/LastTest.log):\n'
    printf '%s\n' "$skipped" "$left_out" | sed '/^$/d'
fi
sed -n '/% tests passed/,$p' "$log"
if ! grep -q '% tests passed' "$log"; then
    echo "test.sh: ctest ran no test" >&2
    if [ "$status" = 0 ]; then status=1; fi
fi
exit "$status"
