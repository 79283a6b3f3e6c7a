#!/bin/sh
# From a fresh clone to lens figures: set-up, build, and `dlens demo` with the arguments given here. Images and figures
# go to dlens-demo/ in the current folder (--out DIR for another); a second run makes only what is missing.
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)

"$source/tools/setup.sh" build
launcher=
if command -v ccache >/dev/null 2>&1; then launcher=-DCMAKE_C_COMPILER_LAUNCHER=ccache; fi
cmake -S "$source" -B "$source/build" $launcher
cmake --build "$source/build" --target dlens -j "$(nproc)"
exec "$source/build/dlens" demo "$@"
