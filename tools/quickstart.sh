#!/usr/bin/env bash
# The main job on a small scale: pretrain on handwritten digits, finetune, compare with training
# from scratch, evaluate. Minutes on a laptop; everything goes to output/quickstart.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$root"

case "${1:-}" in
  -h | --help)
    cat <<'USAGE'
usage: bash tools/quickstart.sh [N] [key=value ...]   (N ranks and settings for every run)

The results of an earlier quickstart are kept, as output/quickstart.1, .2 and so on.

examples:
  bash tools/quickstart.sh
  bash tools/quickstart.sh 2 train.device=cpu
USAGE
    exit 0 ;;
esac

out=output/quickstart
configs=projects/MAE/configs
find_python
ranks=() settings=("$@")
if [ $# -gt 0 ] && [[ "$1" != *=* && "$1" != -* ]]; then
  [[ "$1" =~ ^[1-9][0-9]*$ ]] || fail "N=$1 is not a number of ranks: see bash tools/quickstart.sh --help"
  ranks=("$1") settings=("${@:2}")
fi
start=$(date +%s)
PYTHONPATH=$root "$python" -m projects.MAE.data.digits output/digits
"$python" tools/check_quickstart.py "${ranks[0]:-$(default_ranks "${settings[@]}")}" "${settings[@]}"
if [ -e "$out" ]; then
  number=1
  while [ -e "$out.$number" ]; do number=$((number + 1)); done
  mv "$out" "$out.$number"
  echo "The results of an earlier quickstart are kept in $out.$number"
fi

train() { # title, config, then train.sh's arguments
  echo
  echo "== $1"
  bash tools/train.sh projects/MAE/train_net.py "$configs/$2" "${@:3}"
}
train "Pretraining" quickstart_pretraining.py "$@"
train "Nearest neighbours before pretraining" quickstart_linprobe.py "$@" --knn \
  finetune.enable=False train.output_dir="$out/knn_before"
train "Nearest neighbours after pretraining" quickstart_linprobe.py "$@" --knn \
  train.output_dir="$out/knn_after"
train "Finetuning from it" quickstart_finetune.py "$@"
train "The same classifier from scratch" quickstart_finetune.py "$@" \
  finetune.enable=False train.output_dir="$out/scratch"
train "Evaluating the finetuned classifier" quickstart_finetune.py "$@" --eval-only \
  train.load_weight="$out/finetune" train.output_dir="$out/evaluation"

"$python" tools/summarize_quickstart.py "$out" $(($(date +%s) - start))
