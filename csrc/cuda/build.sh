#!/usr/bin/env bash
# Builds the CUDA kernels' library: bash csrc/cuda/build.sh PYTHON TARGET
# PYTHON is an interpreter with OneFlow, TARGET the folder for libmae_cuda.so, which is written
# whole or not at all. It holds the kernels as text, for NVRTC to compile where they run, so that
# neither a GPU nor CUDA's toolkit is needed here.
set -euo pipefail
kernels=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
csrc=$(dirname "$kernels")
python=$1 target=$2
compiler=${CXX:-g++}

site=$("$python" -c '
import importlib.util as u, os
print(os.path.dirname(os.path.dirname(u.find_spec("oneflow").origin)))')
# Beside the target, so that the library that is there is replaced in one step, whole.
work=$(mktemp -d "$target/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/include"
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

# All sources at once: OneFlow's headers, read once, are nearly all of the work.
(cd "$csrc/oneflow" && printf '#include "%s"\n' cuda_*.cpp) >"$work/all.cpp"
# Access control is off: the registries have no other way in.
"$compiler" -std=c++17 -O1 -fPIC -shared -fvisibility=hidden -fno-access-control -w \
  -D_GLIBCXX_USE_CXX11_ABI=0 -DHALF_ENABLE_CPP11_USER_LITERALS=0 -DGLOG_EXPORT= \
  -I "$csrc/oneflow" -I "$csrc/oneflow/include" -I "$work" -I "$work/include" \
  -I "$site/oneflow/include/glog-build" "$work/all.cpp" -o "$work/libmae_cuda.so" \
  "$site/oneflow/include/glog-build/libglog.a" -Wl,--exclude-libs,ALL -ldl -lpthread
mv "$work/libmae_cuda.so" "$target"
