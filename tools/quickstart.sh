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

examples:
  bash tools/quickstart.sh
  bash tools/quickstart.sh 2 train.device=cpu
USAGE
    exit 0 ;;
esac

out=output/quickstart
configs=projects/MAE/configs
find_python
start=$(date +%s)
rm -rf "$out"
PYTHONPATH=$root "$python" -m projects.MAE.data.digits output/digits

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
