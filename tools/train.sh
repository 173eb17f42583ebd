#!/usr/bin/env bash
# Starts N ranks of a training script on this machine, with LiBai's conventions.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'USAGE'
usage: bash tools/train.sh FILE CONFIG [N] [option ...] [key=value ...]

Pretrains, finetunes or probes, as CONFIG says. Options may stand between and after key=value.

  FILE    the script, projects/MAE/train_net.py
  CONFIG  a LazyConfig file, for example projects/MAE/configs/mae_pretraining.py
  N       ranks on this machine: all usable GPUs by default, or all CPU cores without one

  --resume        go on from the newest checkpoint of train.output_dir; a new run without any
  --eval-only     evaluate train.load_weight or finetune.path (with --resume the newest checkpoint
                  of train.output_dir) on val/; no training
  --knn           classify val/ by the nearest images of train/ in the encoder's features; no
                  training
  --fast-dev-run  three iterations and two batches of evaluation, in fast_dev_run below the output
                  folder, to see whether everything works
  --config-file   CONFIG, as this script hands it on to FILE: not to be given here
  -h, --help      print this text
  key=value       change a setting of CONFIG: docs/recipes.md has the most used ones

environment: NODE (machines, 1), NODE_RANK (0), ADDR (of machine 0), PORT (12345 with several
  machines, else a free one), NODE_TIMEOUT (seconds to wait for the other machines, 300);
  MAE_TRACEBACK=1 shows where an error was found

examples:
  # pretrain on 8 GPUs, and go on with it after a stop
  bash tools/train.sh projects/MAE/train_net.py projects/MAE/configs/mae_pretraining.py 8 \
      dataloader.train.dataset.0.root=/data/imagenet
  bash tools/train.sh projects/MAE/train_net.py projects/MAE/configs/mae_pretraining.py 8 \
      dataloader.train.dataset.0.root=/data/imagenet --resume
  # finetune what it gave, and evaluate that
  bash tools/train.sh projects/MAE/train_net.py projects/MAE/configs/mae_finetune.py 8 \
      dataloader.train.dataset.0.root=/data/imagenet finetune.path=output/mae_pretraining
  bash tools/train.sh projects/MAE/train_net.py projects/MAE/configs/mae_finetune.py 8 --eval-only \
      dataloader.train.dataset.0.root=/data/imagenet train.load_weight=output/mae_finetune
  # how good the features are, without training
  bash tools/train.sh projects/MAE/train_net.py projects/MAE/configs/mae_linprobe.py 8 --knn \
      dataloader.train.dataset.0.root=/data/imagenet finetune.path=output/mae_pretraining
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
# For whoever resumes the run: NODE and the like, then the words as they were given.
command=
for name in NODE NODE_RANK ADDR PORT; do
  [ -z "${!name:-}" ] || command+="$name=${!name} "
done
command+=$(printf '%q ' bash "$0" "$@")
command=${command% }
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

# Below it gRPC, which OneFlow's ranks speak, aborts them.
open_files=$(ulimit -n)
[ "$open_files" = unlimited ] || [ "$open_files" -ge 128 ] ||
  fail "$open_files open files are too few for a rank: raise the limit (ulimit -n 4096)"

find_python
for argument in "$@"; do
  [ "$argument" != "train.device=cpu" ] || export CUDA_VISIBLE_DEVICES=
done
gpus=$(usable_gpus)
[ -n "$ranks" ] || ranks=$(default_ranks "$@")
address=${ADDR:-}
if [ "$nodes" -eq 1 ]; then
  address=127.0.0.1
  listen_on_loopback
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
# The ranks alone: each leads a process group, in which its loader workers end by themselves and
# Python's tracker of semaphores cleans up after them.
signal_ranks() { # signal
  local pid
  for pid in "${pids[@]}"; do
    # A number is not given to another process while a group has it.
    if kill -0 -- "-$pid" 2>/dev/null; then kill "-$1" "$pid" 2>/dev/null || true; fi
  done
}
running() {
  local pid
  for pid in "${pids[@]}"; do kill -0 -- "-$pid" 2>/dev/null && return 0; done
  return 1
}
wait_for_end() { # seconds, for the processes of all ranks
  local tenths=$(($1 * 10))
  while running && [ "$tenths" -gt 0 ]; do
    sleep 0.1 || true # Ctrl-C ends it, too
    tenths=$((tenths - 1))
  done
}
end_all() {
  local pid
  signal_ranks KILL
  wait_for_end 5
  for pid in "${pids[@]}"; do
    kill -KILL -- "-$pid" 2>/dev/null || true
    rm -f /dev/shm/__KMP_REGISTERED_LIB_"$pid"_* # left by the OpenMP of MKL, which was not asked
  done
}
# The first signal asks the ranks to save and stop, the second ends them.
asked= killed=
pass_on() { # signal
  # A terminal that is closed sends it twice: to the one that leads the session, and to its group.
  [ "$asked $1" != "HUP HUP" ] || return 0
  [ -z "$asked" ] || end_as_asked
  asked=$1
  local i count limit state
  for i in "${!pids[@]}"; do
    # While it starts, Python or OneFlow answers a signal with a traceback or a crash.
    state=
    read -r count limit state <"/proc/self/fd/${progress[$i]}" || true
    [ "$state" = started ] || { killed=1; kill -KILL "${pids[$i]}" 2>/dev/null || true; }
  done
  signal_ranks "$1"
}
end_as_asked() {
  trap '' INT TERM HUP USR1
  echo "ended by SIG$asked, which saved nothing; --resume goes on from the newest checkpoint," \
    "where there is one" 2>/dev/null >&"$said_to" || true
  exit $((128 + $(kill -l "$asked")))
}
said_to=2
trap end_all EXIT

# Each rank counts its progress in a file without a name, and writes there where it is when it is sent
# SIGQUIT: see projects/MAE/runtime/watchdog.py.
progress=() # descriptors
open_progress_file() {
  local name descriptor
  name=$(mktemp) || fail "no file can be made in ${TMPDIR:-/tmp}: set TMPDIR to a folder with room"
  exec {descriptor}<>"$name"
  rm -f "$name"
  progress+=("$descriptor")
}
seen=() idle=0 limit=0
# Called once a second or so. Seconds are counted, not read from a clock: a laptop may have slept.
stand_still() { # ranks; whether none of them has made progress for train.timeout_seconds
  local i count state moved=
  for i in "$@"; do
    count= limit=0
    read -r count limit state <"/proc/self/fd/${progress[$i]}" || true
    [ "$count" = "${seen[$i]:-}" ] || moved=1
    seen[$i]=$count
  done
  idle=$((idle + 1))
  [ -z "$moved" ] || idle=0
  [ "${limit:-0}" -gt 0 ] && [ "$idle" -ge "$limit" ]
}
tell_where_they_stand() { # ranks
  local i stack
  for i in "$@"; do kill -QUIT "${pids[$i]}" 2>/dev/null || true; done
  sleep 2 || true
  echo "error: no rank on this machine has made progress for train.timeout_seconds=$limit (0 for never):" \
    "all ranks are ended. Where each was, the innermost function first:"
  for i in "$@"; do
    stack=$(sed -n 's/^ *File "\(.*\)", line \([0-9]*\) in \(.*\)/\3 (\1:\2)/p' "/proc/self/fd/${progress[$i]}" |
      sed "s,(.*/site-packages/,(,; s,($root/,(," | awk 'NR <= 12 { printf "%s%s", between, $0; between = " < " }')
    echo "  rank $((node_rank * ranks + i)): ${stack:-no answer: it is stopped, or waits in the kernel}"
  done
}
for signal in INT TERM HUP; do trap "pass_on $signal" "$signal"; done
trap '' USR1 # inherited by the ranks, which have nothing to save while they start
# A rank has told of an error that is its own and waits to be ended with the others: see projects/MAE/engine/process.py.
failed=
trap 'failed=1' USR2

set -m # job control gives each rank its process group and leaves SIGINT deliverable
for ((local_rank = 0; local_rank < ranks; local_rank++)); do
  [ -z "$asked" ] || break
  open_progress_file
  env "${cpu_environment[@]}" PYTHONWARNINGS="$warnings" PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" \
    MASTER_ADDR="$address" MASTER_PORT="$PORT" WORLD_SIZE=$((ranks * nodes)) \
    RANK=$((node_rank * ranks + local_rank)) LOCAL_RANK="$local_rank" MAE_COMMAND="$command" \
    MAE_LAUNCHER=$$ MAE_PROGRESS="${progress[$local_rank]}" "$python" -u "$file" --config-file "$config" "$@" </dev/null &
  pids+=($!)
done
set +m
trap 'signal_ranks USR1' USR1

# Bash reports each process that a signal ended; what is said here goes to descriptor 3.
exec 3>&2 2>/dev/null
said_to=3

# Polling, because `wait -n` tells which child ended from bash 5.1 on only.
status=0 culprit= polls=0
waiting=("${!pids[@]}")
while [ "${#waiting[@]}" -gt 0 ] && [ "$status" -eq 0 ] && [ -z "$failed" ]; do
  left=()
  for i in "${waiting[@]}"; do
    if kill -0 "${pids[$i]}" 2>/dev/null; then
      left+=("$i")
      continue
    fi
    code=0
    wait "${pids[$i]}" || code=$?
    # Where one rank dies OneFlow aborts the others, some of them within this round.
    if [ "$code" -ne 0 ] && { [ "$status" -eq 0 ] || [ "$status" -eq 134 ]; }; then
      status=$code culprit=$i
    fi
  done
  waiting=("${left[@]}")
  polls=$((polls + 1))
  if [ $((polls % 10)) -eq 0 ] && [ "${#waiting[@]}" -gt 0 ] && stand_still "${waiting[@]}"; then
    tell_where_they_stand "${waiting[@]}" >&3
    exit 1
  fi
  [ "${#waiting[@]}" -eq 0 ] || sleep 0.1 || true
done
[ -z "$failed" ] || exit 1
# A rank that has no step done yet ends by the signal itself.
if [ -n "$asked" ] && { [ -n "$killed" ] || [ "$status" -eq $((128 + $(kill -l "$asked"))) ]; }; then end_as_asked; fi
others= memory="with a smaller train.train_micro_batch_size or num_workers if the memory is full or limited"
[ "$ranks" -eq 1 ] || others=": the other ranks are ended, too"
if [ "$status" -gt 128 ]; then
  [ "$nodes" -eq 1 ] || [ "$status" -ne 134 ] ||
    others=": as a rule since a rank of another machine has ended, which says why there"
  hint=
  case $((status - 128)) in
    7) hint=" once there is room in /dev/shm (df -h /dev/shm; for a container --shm-size=1g)" ;;
    6 | 9 | 11) hint=", $memory" ;;
  esac
  echo "rank $((node_rank * ranks + culprit)) died of signal $((status - 128))" \
    "($(kill -l "$((status - 128))"))${others}; --resume goes on from the newest checkpoint${hint}" >&3
elif [ "$status" -gt 1 ]; then # no rank of ours does: a library has ended it, as MKL does without memory
  echo "rank $((node_rank * ranks + culprit)) ended with status $status${others}, see above;" \
    "--resume goes on from the newest checkpoint, $memory" >&3
fi
# The others may have found the same mistake; they wait in vain for one that died.
[ "$status" -eq 0 ] || [ "$status" -gt 128 ] || wait_for_end 3
exit "$status"
