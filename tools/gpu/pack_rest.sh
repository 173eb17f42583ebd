#!/usr/bin/env bash
# Packs what check.sh needs beside pack.sh's Python: bash pack_rest.sh PYTHON TARGET REFERENCE
# PYTHON has OneFlow; TARGET is a folder; REFERENCE is the file that experiments.py wrote on a CPU.
# Writes TARGET/rest.tar.xz: the repository's code, the CUDA kernels' library, the quickstart's
# digits.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
python=$1 reference=$(realpath "$3")
mkdir -p "$2"
target=$(cd "$2" && pwd)
# Beside the target, as pack.sh does.
work=$(mktemp -d "$target/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/repo" "$work/early"
git -C "$root" archive HEAD projects tools csrc tests | tar -C "$work/repo" -xf -
rm -rf "$work/repo/tests/golden"
bash "$root/csrc/cuda/build.sh" "$python" "$work"
strip --strip-unneeded "$work/libmae_cuda.so"
(cd "$work" && PYTHONPATH=$root "$python" -m projects.MAE.digits digits) >/dev/null
cp "$reference" "$work/reference.json"
# The forwarding libraries of pack.sh have not every symbol, so that they are bound when called.
# protobuf's extension must be bound before, to its own library: bound later it finds OneFlow's, and
# every graph dies of SIGSEGV, of std::bad_alloc, or in a check of descriptor.cc.
cat >"$work/early/sitecustomize.py" <<'PYTHON'
import os, sys
import google.protobuf.pyext._message
sys.setdlopenflags(os.RTLD_LAZY)
PYTHON
tar -C "$work" -cJf "$target/rest.tar.xz" repo early libmae_cuda.so digits reference.json
ls -la "$target/rest.tar.xz"
