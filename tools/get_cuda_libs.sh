#!/bin/sh
# Fetches the CUDA libraries that dlens links (cuBLASLt; cuDNN on request) as the wheels that their maker publishes, and
# unpacks them into a folder outside the source tree. For machines that have nvcc but not these libraries. CUPTI, by which
# dlens bench sees gaps between kernels, comes with most toolkits, else on request.
#
#   tools/get_cuda_libs.sh [--cudnn] [--cupti] [DIR]        DIR: $XDG_CACHE_HOME/dlens/cuda-libs, or ~/.cache/dlens/cuda-libs
#   cmake -B build -DDLENS_CUDA=ON -DDLENS_CUDA_LIBS=DIR
#
# Needs Python 3 with pip or venv and about 1 GB (with --cudnn 2 GB). pip's own configuration says where packages come from. Running it again does
# nothing while the versions below are there. CUBLAS_VERSION, CUDNN_VERSION and CUPTI_VERSION override them.
set -eu

cublas=${CUBLAS_VERSION:-13.0.2.14}
cudnn=${CUDNN_VERSION:-9.14.0.64}
cupti=${CUPTI_VERSION:-13.0.85}
want_cudnn=no want_cupti=no
dir=

for arg; do
    case $arg in
    --cudnn) want_cudnn=yes ;;
    --cupti) want_cupti=yes ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"; exit 0 ;;
    -*) echo "get_cuda_libs.sh: $arg: no such option" >&2; exit 2 ;;
    *) dir=$arg ;;
    esac
done
[ -n "$dir" ] || dir=${XDG_CACHE_HOME:-$HOME/.cache}/dlens/cuda-libs

python=$(command -v python3 || command -v python || true)
if [ -z "$python" ]; then
    echo "get_cuda_libs.sh: needs python3 to fetch wheels" >&2
    exit 1
fi
machine=$(uname -m)
case $machine in
x86_64 | aarch64) ;;
*) echo "get_cuda_libs.sh: no wheels for $machine" >&2; exit 1 ;;
esac

# get NAME VERSION: unpacks one wheel, once.
get() {
    mark=$dir/$1-$2.done
    if [ -e "$mark" ]; then
        echo "$1 $2 is in $dir"
        return
    fi
    tmp=$dir/tmp.$$
    rm -rf "$tmp" && mkdir -p "$tmp"
    trap 'rm -rf "$tmp"' EXIT INT TERM
    echo "fetching $1 $2"
    pip=$python
    if ! "$pip" -m pip --version >/dev/null 2>&1; then # a Python without pip may still be able to make one
        pip=$tmp/venv/bin/python
        if ! "$python" -m venv "$tmp/venv" >/dev/null 2>&1; then
            echo "get_cuda_libs.sh: $python has neither pip nor venv to fetch wheels with" >&2
            exit 1
        fi
    fi
    "$pip" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --platform "manylinux_2_27_$machine" --platform "manylinux_2_25_$machine" --dest "$tmp" "$1==$2"
    "$python" - "$tmp" "$dir" <<'PY'
import glob, os, sys, zipfile
tmp, to = sys.argv[1:]
for wheel in glob.glob(tmp + "/*.whl"):
    with zipfile.ZipFile(wheel) as z: # each file is there whole or not at all, whenever this is interrupted
        z.extractall(tmp + "/all")
for folder, _, files in os.walk(tmp + "/all"):
    there = os.path.join(to, os.path.relpath(folder, tmp + "/all"))
    os.makedirs(there, exist_ok=True)
    for name in files:
        os.replace(os.path.join(folder, name), os.path.join(there, name))
PY
    rm -rf "$tmp"
    : >"$mark"
}

mkdir -p "$dir"
# One at a time: the second to come finds everything there.
if command -v flock >/dev/null 2>&1; then
    exec 9>"$dir/lock"
    flock 9
fi
get nvidia-cublas "$cublas"
[ $want_cudnn = no ] || get nvidia-cudnn-cu13 "$cudnn"
[ $want_cupti = no ] || get nvidia-cuda-cupti "$cupti"
echo "use it with: cmake -DDLENS_CUDA=ON -DDLENS_CUDA_LIBS=$dir"
