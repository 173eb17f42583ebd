#!/usr/bin/env bash
# Builds the CUDA kernels for this CPU: bash csrc/cuda/build_emulated.sh TARGET
# TARGET is the folder for libmae_cuda_emulated.so, in which emulation.h runs the kernels' very text
# with one fiber a thread: for tests where there is no GPU.
set -euo pipefail
kernels=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=$1
compiler=${CXX:-g++}
# Beside the target, so that the library that is there is replaced in one step, whole.
work=$(mktemp -d "$target/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
(cd "$kernels" && printf '#include "%s"\n' *.cu) >"$work/all.cpp"
"$compiler" -std=c++17 -O1 -fPIC -shared -fvisibility=hidden -w -include "$kernels/emulation.h" \
  -I "$kernels" "$work/all.cpp" -o "$work/libmae_cuda_emulated.so"
mv "$work/libmae_cuda_emulated.so" "$target"
