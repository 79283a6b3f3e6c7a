#!/bin/sh
# builds.sh PROGRAM: the linked CUDA program starts, so that its libraries are found, and goes to the CUDA backend for a
# GPU that cannot be there. Needs no GPU.
set -u
"$1" --version || { echo "the program does not start"; exit 1; }
out=$(mktemp -d) || exit 1
said=$("$1" demo --device cuda:99 --out "$out/none" 2>&1)
status=$?
rm -rf "$out"
echo "$said"
if [ $status -ne 4 ]; then echo "exit $status for a GPU that is not there, not 4"; exit 1; fi
case $said in
*"no NVIDIA driver"* | *"driver is too old"* | *"no NVIDIA GPU is visible"* | *"no usable NVIDIA driver"* | *"--device cuda:99: this machine has"*) ;;
*) echo "that was not the CUDA backend"; exit 1 ;;
esac
