#!/usr/bin/env bash
# Builds the CUDA kernels for this CPU: bash csrc/cuda/build_emulated.sh TARGET
# TARGET is the folder for libmae_cuda_emulated.so, in which emulation.h runs the kernels' very text
# with one fiber a thread: for tests where there is no GPU.
set -euo pipefail
kernels=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=$1
compiler=${CXX:-g++}
jobs=${MAE_BUILD_JOBS:-$(nproc)}
work=$(mktemp -d "$target/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
for source in "$kernels"/*.cu; do
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
  "$compiler" -std=c++17 -O2 -fPIC -fvisibility=hidden -w -x c++ -include "$kernels/emulation.h" \
    -c "$source" -o "$work/$(basename "$source" .cu).o" &
done
while [ -n "$(jobs -rp)" ]; do wait -n; done
"$compiler" -shared "$work"/*.o -o "$work/libmae_cuda_emulated.so"
mv "$work/libmae_cuda_emulated.so" "$target"
