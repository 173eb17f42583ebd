#!/usr/bin/env bash
# Builds the CUDA kernels' library: bash csrc/cuda/build.sh PYTHON TARGET
# PYTHON is an interpreter with OneFlow, TARGET the folder for libmae_cuda.so, which is written
# whole or not at all. It holds the kernels as text, for NVRTC to compile where they run, so that neither
# a GPU nor CUDA's toolkit is needed here. Objects are kept in MAE_CUDA_OBJECTS, if that is set, and
# compiled again only where their source is newer.
set -euo pipefail
kernels=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
csrc=$(dirname "$kernels")
python=$1 target=$2
compiler=${CXX:-g++}
jobs=${MAE_BUILD_JOBS:-$(nproc)}

site=$("$python" -c 'import importlib.util as u, os; print(os.path.dirname(os.path.dirname(u.find_spec("oneflow").origin)))')
work=$(mktemp -d "$target/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
objects=${MAE_CUDA_OBJECTS:-$work}
mkdir -p "$objects" "$work/include"
# The package carries the system headers of the machine that built it, too: only its own are used.
for name in oneflow google absl llvm llvm-c half.hpp; do
  ln -s "$site/oneflow/include/$name" "$work/include/$name"
done

# Each text as an element of an array of {name, text}.
embed() { # array, files
  local array=$1 file
  shift
  echo "const Text $array[] = {"
  for file in "$@"; do
    local name
    name=$(basename "$file")
    printf '    {"%s", R"MAE_TEXT(' "${name%.cu}"
    cat "$file"
    printf ')MAE_TEXT"},\n'
  done
  echo "    {nullptr, nullptr}};"
}
{
  embed header_texts "$kernels/common.cuh" "$kernels/parameters.h"
  embed kernel_texts "$kernels"/*.cu
} >"$work/embedded_kernels.inc"

# Access control is off: the registries have no other way in.
flags=(-std=c++17 -O2 -fPIC -fvisibility=hidden -fno-access-control)
oneflow=(-w -D_GLIBCXX_USE_CXX11_ABI=0 -DHALF_ENABLE_CPP11_USER_LITERALS=0 -DGLOG_EXPORT=
  -I "$csrc/include" -I "$work/include" -I "$site/oneflow/include/glog-build")
is_fresh() { # object, source; the texts are a part of cuda_compile.o alone
  [ "$1" -nt "$2" ] || return 1
  [ -z "$(find "$csrc/oneflow" "$kernels" -name '*.h' -newer "$1")" ] || return 1
  [ "$(basename "$2")" != cuda_compile.cpp ] || [ -z "$(find "$kernels" -name '*.cu*' -newer "$1")" ]
}
compile() { # source
  local object=$objects/$(basename "$1" .cpp).o
  ! is_fresh "$object" "$1" || return 0
  "$compiler" "${flags[@]}" "${oneflow[@]}" -I "$work" -c "$1" -o "$object"
}
for source in "$csrc"/oneflow/cuda_*.cpp; do
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
  compile "$source" &
done
while [ -n "$(jobs -rp)" ]; do wait -n; done

"$compiler" -shared "$objects"/cuda_*.o -o "$work/libmae_cuda.so" \
  "$site"/oneflow/include/glog-build/libglog.a -Wl,--exclude-libs,ALL -ldl -lpthread
mv "$work/libmae_cuda.so" "$target"
