#!/usr/bin/env bash
# Builds the native libraries: bash csrc/build.sh PYTHON TARGET. tools/setup.sh calls it.
# PYTHON is an interpreter with OneFlow, TARGET the folder for libmae_image.so, libmae_rest.so and
# libmae_native.so. Each is written whole; one that can't be built is removed, because what lies
# there is of other sources.
set -euo pipefail
source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$1 target=$2
compiler=${CXX:-g++}

# Beside the target, not in /tmp: only on one file system does mv replace a library that a run has
# loaded in one step.
work=$(mktemp -d "$target/build.XXXXXX")
missing=(libmae_image.so libmae_rest.so libmae_native.so)
trap 'rm -rf "$work" "${missing[@]/#/$target/}"' EXIT

c=("$compiler" -x c -std=c11 -fPIC -Wall -shared)
# What reads images loads without OneFlow, and is there where the kernels can't be built, too.
# Fused multiply-adds would round the weights otherwise than Pillow does.
"${c[@]}" -O3 -ffp-contract=off "$source/image/resample.c" -o "$work/libmae_image.so" -lm
mv "$work/libmae_image.so" "$target"
missing=(libmae_rest.so libmae_native.so)

site=$("$python" -c '
import importlib.util as u, os
print(os.path.dirname(os.path.dirname(u.find_spec("oneflow").origin)))')
libraries=$("$python" -c 'import sys; print(sys.prefix)')/lib
# The package carries the system headers of the machine that built it, too: only its own are used.
mkdir "$work/include"
for name in oneflow google absl llvm llvm-c half.hpp; do
  ln -s "$site/oneflow/include/$name" "$work/include/$name"
done

common=(-std=c++17 -O3 -fPIC -Wall -I "$source")
# No -ffast-math: divergence is found by NaN, and the constants of exp need their order.
arithmetic=(-fopenmp -fno-math-errno -fno-trapping-math -ffp-contract=fast -fvisibility=hidden)
jobs=()
compile() { # object, source, flags
  local object=$work/$1 file=$source/$2
  shift 2
  "$compiler" "${common[@]}" "$@" -c "$file" -o "$object" &
  jobs+=($!)
}
compile sse2.o cpu/kernels.cpp "${arithmetic[@]}" -DMAE_ISA=sse2
compile avx2.o cpu/kernels.cpp "${arithmetic[@]}" -DMAE_ISA=avx2 -mavx2 -mfma
compile avx512.o cpu/kernels.cpp "${arithmetic[@]}" -DMAE_ISA=avx512 -mavx2 -mfma \
  -mavx512f -mavx512dq -mavx512vl -mavx512bw -mprefer-vector-width=512
compile dispatch.o cpu/dispatch.cpp -fvisibility=default
compile gemm.o cpu/gemm.cpp -fopenmp -fvisibility=hidden
oneflow=(-fvisibility=hidden -w -D_GLIBCXX_USE_CXX11_ABI=0 -DHALF_ENABLE_CPP11_USER_LITERALS=0
  -DGLOG_EXPORT= -I "$source/oneflow/include" -I "$work/include"
  -I "$site/oneflow/include/glog-build")
for file in "$source"/oneflow/*.cpp; do
  name=$(basename "$file" .cpp)
  [[ $name != cuda_* ]] || continue # of another library: see cuda/build.sh
  compile "$name.o" "oneflow/$name.cpp" "${oneflow[@]}"
done
for job in "${jobs[@]}"; do wait "$job"; done

# GCC's OpenMP calls are answered by the library that MKL brings, so that both share threads.
"$compiler" -shared "$work"/*.o -o "$work/libmae_native.so" \
  "$site"/oneflow/include/glog-build/libglog.a -Wl,--exclude-libs,ALL \
  "$libraries/libiomp5.so" -Xlinker -rpath -Xlinker "$libraries" # a comma would end it in -Wl
"${c[@]}" -O2 -fvisibility=hidden "$source/oneflow/rest.c" -o "$work/libmae_rest.so" -ldl
mv "$work"/libmae_rest.so "$work"/libmae_native.so "$target"
missing=()
