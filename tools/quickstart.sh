#!/usr/bin/env bash
# The main job on a small scale: pretrain on handwritten digits, finetune, compare with training
# from scratch, evaluate. Minutes on a laptop; everything goes to output/quickstart.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$root"

case "${1:-}" in
  -h | --help)
    cat <<'USAGE'
usage: bash tools/quickstart.sh [N] [key=value ...]

N ranks, and settings, for every run; by default the GPUs or the CPU cores, as far as they can share
batches of 64 images.

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
ranks= settings=("$@")
if [ $# -gt 0 ] && [[ "$1" != *=* && "$1" != -* ]]; then
  [[ "$1" =~ ^[1-9][0-9]*$ ]] || fail "N=$1 is not a number of ranks: see bash tools/quickstart.sh --help"
  ranks=$1 settings=("${@:2}")
else
  ranks=$(default_ranks "$@")
  while [ $((64 % ranks)) -ne 0 ]; do ranks=$((ranks - 1)); done
fi
mkdir -p output
exec 7>output/.quickstart.lock # the runs inherit it, and hold it until they have ended
flock -n 7 || fail "another quickstart is still running in $root: wait for it, or stop it"
start=$(date +%s)
PYTHONPATH=$root "$python" -m projects.MAE.digits output/digits
"$python" tools/check_quickstart.py "$ranks" "${settings[@]}"
exists() { [ -e "$1" ] || [ -L "$1" ]; } # a link that leads nowhere, too
kept=
if exists "$out"; then
  number=1
  while exists "$out.$number"; do number=$((number + 1)); done
  mv -T "$out" "$out.$number"
  kept="The results of an earlier quickstart are kept in $out.$number"
  echo "$kept"
fi

# A run that is asked to stop saves and ends well: the others must not go on from there.
trap 'stopped=1' INT
stopped=

train() { # title, config, then train.sh's arguments
  echo
  echo "== $1"
  bash tools/train.sh projects/MAE/train_net.py "$configs/$2" "$ranks" "${settings[@]}" "${@:3}"
  [ -z "$stopped" ] || { echo "The quickstart was stopped: start it again for the whole of it. $kept"; exit 130; }
}
train "Pretraining" quickstart_pretraining.py
train "Nearest neighbours before pretraining" quickstart_linprobe.py --knn \
  finetune.enable=False train.output_dir="$out/knn_before"
train "Nearest neighbours after pretraining" quickstart_linprobe.py --knn \
  train.output_dir="$out/knn_after"
train "Finetuning from it" quickstart_finetune.py
train "The same classifier from scratch" quickstart_finetune.py \
  finetune.enable=False train.output_dir="$out/scratch"
train "Evaluating the finetuned classifier" quickstart_finetune.py --eval-only \
  train.load_weight="$out/finetune" train.output_dir="$out/evaluation"

"$python" tools/summarize_quickstart.py "$out" $(($(date +%s) - start))
[ -z "$kept" ] || echo "$kept"
