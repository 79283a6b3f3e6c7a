#!/bin/sh
# Installs what dlens needs, on Debian (12 or newer) and Ubuntu (22.04 or newer).
#
#   tools/setup.sh            what building and testing needs
#   tools/setup.sh build      what building and running needs
#   tools/setup.sh --check    say what is missing, install nothing (status 1 when something is)
#
# Each thing is looked for first. When all are there, nothing is installed and no root is needed; otherwise apt-get
# runs as root or through sudo. Nothing is asked. DLENS_SKIP_SETUP=1 leaves this step out.
set -eu

what="build test"
check_only=
for arg in "$@"; do
    case $arg in
    build) what="build" ;;
    test) what="build test" ;;
    --check) check_only=1 ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
    *) echo "setup.sh: unknown argument '$arg' (build, test or --check)" >&2; exit 2 ;;
    esac
done
if [ "${DLENS_SKIP_SETUP:-}" = 1 ]; then exit 0; fi

has() { command -v "$1" >/dev/null 2>&1; }
library() { has pkg-config && pkg-config --exists "$@"; }
links() { # links COMPILER OPTION...: does a small program from standard input compile and link?
    compiler=$1; shift
    has "$compiler" || return 1
    scratch=$(mktemp)
    if "$compiler" -x c - -o "$scratch" "$@" >/dev/null 2>&1; then status=0; else status=1; fi
    rm -f "$scratch"
    return $status
}
compiles() { echo 'int main(void) { return 0; }' | links cc; }
dnnl() { printf '#include <dnnl.h>\nint main(void) { return !dnnl_version(); }\n' | links cc -ldnnl; }
sanitizers() { printf '#include <stdlib.h>\nint main(void) { return 0; }\n' | links gcc -fsanitize=address,undefined; }
fuzzer() {
    printf '#include <stddef.h>\nint LLVMFuzzerTestOneInput(const char *p, size_t n) { return !p && n; }\n' |
        links clang -fsanitize=fuzzer,address,undefined
}
new_cmake() { # 3.22 or newer
    has cmake || return 1
    version=$(cmake --version | sed -n '1s/[^0-9]*\([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
    set -- $version
    [ "${1:-0}" -gt 3 ] || { [ "${1:-0}" -eq 3 ] && [ "${2:-0}" -ge 22 ]; }
}
builder() { has make || has ninja; }
font() {
    [ -n "$(find /usr/share/fonts /usr/local/share/fonts "${HOME:-/nonexistent}/.fonts" \
        "${HOME:-/nonexistent}/.local/share/fonts" -name '*.[to]t[fc]' 2>/dev/null | head -n 1)" ]
}

# need PACKAGES "WHAT IT IS" CHECK...: collects the packages of what is absent.
need() {
    packages=$1 thing=$2
    shift 2
    if ! "$@"; then
        missing="$missing $packages"
        things="$things
  $thing"
    fi
}
look() {
    missing= things=
    need "gcc libc6-dev" "a C11 compiler (gcc 11, clang 14 or newer)" compiles
    need "cmake" "CMake 3.22 or newer" new_cmake
    need "make" "make or ninja" builder
    need "pkg-config" "pkg-config" has pkg-config
    need "libdnnl-dev" "oneDNN 2.x or 3.x (matrix products on the CPU)" dnnl
    need "libjansson-dev" "jansson (JSON)" library jansson
    need "libpcre2-dev" "PCRE2, 8 bit (tokenizer)" library libpcre2-8
    need "libutf8proc-dev" "utf8proc (tokenizer)" library libutf8proc
    need "libpng-dev" "libpng (images)" library libpng
    need "zlib1g-dev" "zlib (images)" library zlib
    need "libcairo2-dev" "cairo with PDF and SVG (figures)" library cairo cairo-pdf cairo-svg
    need "libpango1.0-dev" "pango (text in figures)" library pangocairo
    need "fonts-dejavu-core" "a font (text in figures)" font
    case $what in *test*)
        need "libcmocka-dev" "cmocka (tests)" library cmocka
        need "gcc libc6-dev" "gcc with AddressSanitizer and UBSan (tests)" sanitizers
        need "clang $clang_runtime" "clang with libFuzzer and its sanitizers (tests)" fuzzer
        ;;
    esac
}

# Where clang's sanitizer runtime is a package of its own (Debian 12, Ubuntu 24.04), it is only recommended by clang.
clang_runtime=
look
if [ -z "$missing" ]; then
    echo "setup.sh: everything needed to $(echo "$what" | sed 's/ / and /') is here"
    exit 0
fi
echo "setup.sh: missing:$things"
if [ -n "$check_only" ]; then exit 1; fi
if ! has apt-get; then
    echo "setup.sh: this system has no apt-get. Install the above with its own package manager; on Debian it would be:" >&2
    echo "  $missing" >&2
    exit 1
fi

if [ "$(id -u)" = 0 ]; then root=
elif has sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then root=sudo
else
    echo "setup.sh: this needs root, and sudo cannot be used here. As root, run" >&2
    echo "  apt-get install --no-install-recommends$missing" >&2
    exit 1
fi
apt() { $root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@"; }
known() { [ -n "$(apt-cache show --no-all-versions "$1" 2>/dev/null)" ]; }
updated=
update() {
    echo "setup.sh: reading the package lists"
    apt update
    updated=1
}
for package in $missing; do
    if [ -z "$updated" ] && ! known "$package"; then update; fi
done
if known libclang-rt-dev; then clang_runtime=libclang-rt-dev; look; fi

echo "setup.sh: installing$missing"
# shellcheck disable=SC2086 # a list of words
if ! apt install --no-install-recommends $missing; then
    if [ -n "$updated" ]; then exit 1; fi
    update # the lists may be older than the archive
    apt install --no-install-recommends $missing
fi
look
if [ -n "$missing" ]; then
    echo "setup.sh: still missing, although the packages are installed (is this release too old?):$things" >&2
    exit 1
fi
echo "setup.sh: done"
