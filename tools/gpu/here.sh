#!/usr/bin/env bash
# tools/gpu/check.sh where the project is installed: bash tools/test.sh --gpu [GROUP ...]
# The CPU's numbers are computed first; GROUPs are those of check.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
find_python
library=${MAE_CUDA_KERNELS:-$libraries/libmae_cuda.so}
[ -f "$library" ] || fail "there is no $library: run bash tools/setup.sh gpu"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
ln -s "$root" "$folder/repo"
ln -s "$(realpath "$library")" "$folder/libmae_cuda.so"
PYTHONPATH=$root "$python" -m projects.MAE.digits "$folder/digits"
for words in train "train long" eager evaluate "evaluate graph" classifier; do
  # shellcheck disable=SC2086
  CUDA_VISIBLE_DEVICES='' REFERENCE=$folder/reference.json "$python" \
    "$root/tools/gpu/experiments.py" cpu $words >"$folder/said" 2>&1 ||
    { cat "$folder/said"; fail "the CPU's own numbers could not be computed"; }
done
MAE_PYTHON=$python bash "$root/tools/gpu/check.sh" "$folder" "$@"
