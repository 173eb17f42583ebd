#!/usr/bin/env bash
# Starts N ranks of a training script on this machine, with LiBai's conventions.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'USAGE'
usage: bash tools/train.sh FILE CONFIG [N] [--eval-only | --knn] [--resume] [--fast-dev-run]
                             [key=value ...]

  FILE    the script, projects/MAE/train_net.py
  CONFIG  a LazyConfig file, for example projects/MAE/configs/mae_pretraining.py
  N       ranks on this machine: all usable GPUs by default, or all CPU cores without one

environment: NODE (machines, 1), NODE_RANK (0), ADDR (of machine 0), PORT (12345 with several
  machines, else a free one), NODE_TIMEOUT (seconds to wait for the other machines, 300)

examples:
  bash tools/train.sh projects/MAE/train_net.py projects/MAE/configs/mae_pretraining.py 8 \
      dataloader.train.dataset.0.root=/data/imagenet
  bash tools/train.sh projects/MAE/train_net.py projects/MAE/configs/mae_finetune.py 8 \
      finetune.path=output/mae_pretraining --eval-only
  bash tools/train.sh projects/MAE/train_net.py projects/MAE/configs/mae_linprobe.py 8 \
      finetune.path=output/mae_pretraining --knn
USAGE
}

for argument in "$@"; do
  case "$argument" in -h | --help) usage; exit 0 ;; esac
done
[ $# -ge 2 ] || { usage >&2; exit 1; }

# A path may be given relative to the current folder or to the repository.
locate() {
  if [ -f "$2" ]; then realpath "$2"
  elif [ -f "$root/$2" ]; then realpath "$root/$2"
  else fail "$1 $2: no such file"; fi
}
file=$(locate FILE "$1")
config=$(locate CONFIG "$2")
shift 2

ranks=
if [[ "${1:-}" =~ ^[0-9]+$ ]]; then
  ranks=$1
  shift
  [ "$ranks" -ge 1 ] || fail "N=$ranks must be at least 1"
elif [ $# -gt 0 ] && [[ "$1" != -* && "$1" != *=* ]]; then
  fail "N=$1 is not a number of ranks"
fi

nodes=${NODE:-1}
node_rank=${NODE_RANK:-0}
[[ "$nodes" =~ ^[1-9][0-9]*$ ]] || fail "NODE=$nodes must be the number of machines"
[[ "$node_rank" =~ ^[0-9]+$ && "$node_rank" -lt "$nodes" ]] ||
  fail "NODE_RANK=$node_rank must be from 0 to $((nodes - 1)), one for each of NODE=$nodes machines"
[ "$nodes" -eq 1 ] || [ -n "${ADDR:-}" ] || fail "NODE=$nodes needs ADDR, the address of machine 0"

find_python
for argument in "$@"; do
  [ "$argument" != "train.device=cpu" ] || export CUDA_VISIBLE_DEVICES=
done
gpus=$(usable_gpus)
if [ -z "$ranks" ]; then
  if [ "$gpus" -gt 0 ]; then ranks=$gpus; else ranks=$(cpu_cores); fi
fi
cpu_environment=()
[ "$gpus" -gt 0 ] || set_cpu_environment "$ranks"

free_port() {
  "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
if [ -z "${PORT:-}" ]; then
  if [ "$nodes" -eq 1 ]; then PORT=$(free_port); else PORT=12345; fi
fi

# Python's tracker of semaphores cleans up after a rank that is ended from outside, and says so.
warnings=${PYTHONWARNINGS:+$PYTHONWARNINGS,}ignore:resource_tracker:UserWarning

pids=()
# Every rank leads a process group of its own, so that its loader workers go with it.
signal_ranks() {
  local pid
  for pid in "${pids[@]}"; do kill "-$1" -- "-$pid" 2>/dev/null || true; done
}
running() {
  local pid
  for pid in "${pids[@]}"; do kill -0 "$pid" 2>/dev/null && return 0; done
  return 1
}
wait_for_end() { # seconds
  local tenths=$(($1 * 10))
  while running && [ "$tenths" -gt 0 ]; do
    sleep 0.1
    tenths=$((tenths - 1))
  done
}
stop() { # signal, exit status
  trap '' INT TERM
  signal_ranks "$1"
  wait_for_end 30
  exit "$2"
}
trap 'signal_ranks KILL' EXIT
trap 'stop INT 130' INT
trap 'stop TERM 143' TERM

set -m # job control gives each rank its process group and leaves SIGINT deliverable
for ((local_rank = 0; local_rank < ranks; local_rank++)); do
  env "${cpu_environment[@]}" PYTHONWARNINGS="$warnings" PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" \
    MASTER_ADDR="${ADDR:-127.0.0.1}" MASTER_PORT="$PORT" WORLD_SIZE=$((ranks * nodes)) \
    RANK=$((node_rank * ranks + local_rank)) LOCAL_RANK="$local_rank" \
    "$python" -u "$file" --config-file "$config" "$@" </dev/null &
  pids+=($!)
done
set +m

# Polling, because `wait -n` tells which child ended from bash 5.1 on only.
status=0
waiting=("${!pids[@]}")
while [ "${#waiting[@]}" -gt 0 ] && [ "$status" -eq 0 ]; do
  left=()
  for i in "${waiting[@]}"; do
    if kill -0 "${pids[$i]}" 2>/dev/null; then
      left+=("$i")
      continue
    fi
    code=0
    wait "${pids[$i]}" || code=$?
    [ "$code" -le 128 ] || echo "rank $((node_rank * ranks + i)) died of signal $((code - 128))" >&2
    [ "$code" -eq 0 ] || status=$code
  done
  waiting=("${left[@]}")
  [ "${#waiting[@]}" -eq 0 ] || sleep 0.1
done
if [ "$status" -ne 0 ]; then
  wait_for_end 3 # the others may have found the same mistake
  signal_ranks TERM
  wait_for_end 5
fi
exit "$status"
