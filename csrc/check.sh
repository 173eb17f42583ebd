#!/usr/bin/env bash
# Runs the native kernels and image functions under a sanitizer:
# bash csrc/check.sh {address,undefined,thread}
set -euo pipefail
source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
sanitizer=$1
compiler=${CXX:-g++}
work=$(mktemp -d)
trap "rm -rf $work" EXIT

flags=(-std=c++17 -O1 -g -fopenmp-simd -pthread -DMAE_STANDARD_THREADS
  -fno-math-errno -fno-trapping-math -ffp-contract=fast
  "-fsanitize=$sanitizer" -fno-sanitize-recover=all)
jobs=()
compile() { # name of the instruction set, its flags
  local name=$1
  shift
  "$compiler" "${flags[@]}" "-DMAE_ISA=$name" "$@" -c "$source/cpu/kernels.cpp" -o "$work/$name.o" &
  jobs+=($!)
}
compile sse2
compile avx2 -mavx2 -mfma
compile avx512 -mavx2 -mfma -mavx512f -mavx512dq -mavx512vl -mavx512bw -mprefer-vector-width=512
for job in "${jobs[@]}"; do wait "$job"; done
"$compiler" "${flags[@]}" "$source"/cpu/{check_kernels,dispatch}.cpp "$work"/*.o -o "$work/check"
"$work/check"
bash "$source/image/check.sh" "$sanitizer"
