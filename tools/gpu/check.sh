#!/usr/bin/env bash
# Many experiments on a GPU machine in one go: bash repo/tools/gpu/check.sh FOLDER [GROUP ...]
#
# FOLDER holds what pack.sh and pack_rest.sh wrote, the latter unpacked, or with MAE_PYTHON what
# here.sh makes. Each experiment is a process of its own with a time limit and a log in FOLDER/logs.
# At the end come the last lines of every log that failed, a table, and, where OUT names a folder,
# the logs in it; the status is 1 where one failed.
# GROUPs: compile operators models programs resume speed; all of them by default.
# DEVICE=cpu or emulated:LIBRARY in the environment tries the script itself without a GPU, EXTRA are
# more settings of the programs then.
FOLDER=$(cd "$1" && pwd)
shift
groups=${*:-compile operators models programs resume speed}
device=${DEVICE:-cuda}
cd "$FOLDER" || exit 1
mkdir -p logs bin
rm -f logs/*
begin=$(date +%s)

# --- Python with OneFlow, as a command -----------------------------------------------------------
if [ -n "${MAE_PYTHON:-}" ]; then # installed here
  python=$MAE_PYTHON
  export MAE_CUDA_KERNELS=$FOLDER/libmae_cuda.so
else
  source "$FOLDER/repo/tools/gpu/there.sh" "$FOLDER"
  libraries=${of[1]#LD_LIBRARY_PATH=}
  python=$FOLDER/bin/python
  cat >"$python" <<SCRIPT
#!/bin/bash
export LD_LIBRARY_PATH=$libraries PYTHONHOME=$FOLDER/python PYTHONUNBUFFERED=1
export PYTHONPATH=$FOLDER/early:$FOLDER/site\${PYTHONPATH:+:\$PYTHONPATH}
exec $FOLDER/python/bin/python3.10 "\$@"
SCRIPT
  chmod +x "$python"
  cp "$FOLDER/libmae_cuda.so" "$FOLDER/python/lib/"
fi
export MAE_PYTHON=$python MAE_NATIVE=0 STRICT=1 REFERENCE=$FOLDER/reference.json
export PYTHONPATH=$FOLDER/repo
exact=ONEFLOW_EP_CUDA_ENABLE_TF32_EXECUTION=0

# --- running -------------------------------------------------------------------------------------
since_begin() { echo $(($(date +%s) - begin)); }
run() { # name, seconds, command: its log ends in a line with the status
  local name=$1 limit=$2 from status
  shift 2
  from=$(since_begin)
  timeout -s KILL "$limit" env "$@" >"logs/$name" 2>&1
  status=$?
  echo "STATUS $status seconds $from to $(since_begin)" >>"logs/$name"
  return $status
}
experiment() { # name, seconds, settings ... -- words of experiments.py
  local name=$1 limit=$2 settings=()
  shift 2
  while [ "$1" != -- ]; do settings+=("$1"); shift; done
  shift
  run "$name" "$limit" "${settings[@]}" "$python" repo/tools/gpu/experiments.py "$device" "$@"
}
has() { [[ " $groups " == *" $1 "* ]]; }

one_gpu="train.device=${device%%:*} dataloader.train.num_workers=2 dataloader.test.0.num_workers=2"
train() { # name, seconds, folder, setting, config, arguments
  local name=$1 limit=$2 folder=$FOLDER/runs/$3 setting=$4 config=$5
  shift 5
  mkdir -p "$folder/output"
  ln -sfn "$FOLDER/digits" "$folder/output/digits"
  # shellcheck disable=SC2086
  (cd "$folder" && log=$FOLDER/logs/$name && from=$(since_begin) &&
    { timeout -s KILL "$limit" env "$setting" bash "$FOLDER/repo/tools/train.sh" \
      "$FOLDER/repo/projects/MAE/train_net.py" "$FOLDER/repo/projects/MAE/configs/$config" 1 \
      $one_gpu "$@" ${EXTRA:-} >"$log" 2>&1; status=$?
      echo "STATUS $status seconds $from to $(since_begin)" >>"$log"; exit $status; })
}

command_line() { # name, folder, module, arguments
  local name=$1 folder=$FOLDER/runs/$2 module=$3
  shift 3
  (cd "$folder" && log=$FOLDER/logs/$name && from=$(since_begin) &&
    { timeout -s KILL 60 env $exact "$python" -m "projects.MAE.$module" --device "${device%%:*}" \
      "$@" >"$log" 2>&1; status=$?
      echo "STATUS $status seconds $from to $(since_begin)" >>"$log"; })
}

# --- groups --------------------------------------------------------------------------------------
has compile && run compile 120 "$python" -c "
from projects.MAE.runtime import cuda_kernels
import time; t = time.time(); print('RESULT', cuda_kernels.load(), f'{time.time() - t:.1f} s')"

if has operators; then
  for part in "fill cast arithmetic comparisons unary clip" "gelu softmax reduce layer_norm sort" \
    "moving slices where gather" \
    "matmul half losses negative_log_likelihood optimizer random_numbers"; do
    # shellcheck disable=SC2086
    run "operators_${part%% *}" 60 $exact "$python" -m tests.native.cuda.operators "$device" $part &
  done
  experiment refuse 40 -- refuse &
  wait
fi

if has models; then
  experiment train 60 $exact -- train long &
  experiment train_again 60 $exact -- train long &
  experiment train_tf32 60 -- train long &
  experiment train_amp 60 -- train long amp &
  experiment train_amp_again 60 -- train long amp &
  wait
  experiment train_skip 60 $exact -- train skip &
  experiment train_checkpointing 60 $exact -- train checkpointing &
  experiment train_checkpointing_amp 60 -- train checkpointing amp &
  experiment eager 60 $exact -- eager &
  experiment evaluate 60 $exact -- evaluate &
  experiment evaluate_graph 60 $exact -- evaluate graph &
  experiment evaluate_graph_amp 60 -- evaluate graph amp &
  wait
  experiment classifier 60 $exact -- classifier &
  experiment classifier_amp 60 -- classifier amp &
  experiment libai_vit 60 $exact -- libai_vit &
  experiment libai_vit_amp 60 -- libai_vit amp &
  wait
fi

quick="output/quickstart"
if has programs; then
  off=train.amp.enabled=False
  amp="train.amp.enabled=True train.train_epoch=6 train.warmup_epoch=1"
  (
    train pretraining 150 q $exact quickstart_pretraining.py $off || exit
    train finetune 90 q $exact quickstart_finetune.py $off &&
      train evaluation 60 q $exact quickstart_finetune.py $off --eval-only \
        train.load_weight=$quick/finetune train.output_dir=$quick/evaluation &
    train linprobe 90 q $exact quickstart_linprobe.py $off &
    train knn_after 60 q $exact quickstart_linprobe.py $off --knn \
      train.output_dir=$quick/knn_after &
    command_line visualize q visualize --weights "$quick/pretraining" --out picture.png &
    command_line features q extract_features --weights "$quick/pretraining" \
      --images output/digits/val --out features.npz &
    # shellcheck disable=SC2086
    train finetune_amp 60 q A=1 quickstart_finetune.py $amp train.output_dir=$quick/finetune_amp &
    # shellcheck disable=SC2086
    train linprobe_amp 60 q A=1 quickstart_linprobe.py $amp train.output_dir=$quick/linprobe_amp &
    wait
    command_line predict q predict --weights "$quick/finetune" -k 1 output/digits/val/7
  ) &
  train knn_before 60 r $exact quickstart_linprobe.py $off --knn finetune.enable=False \
    train.output_dir=$quick/knn_before &
  train scratch 90 s $exact quickstart_finetune.py $off finetune.enable=False \
    train.output_dir=$quick/scratch &
  # shellcheck disable=SC2086
  train pretraining_amp 90 a A=1 quickstart_pretraining.py $amp &
  wait
fi

if has resume; then
  short="train.amp.enabled=False train.train_epoch=8 train.warmup_epoch=1"
  short+=" train.checkpointer.save_model_after_n_epoch=2 train.evaluation.eval_after_n_epoch=4"
  # shellcheck disable=SC2086
  train resume_whole 90 whole $exact quickstart_pretraining.py $short &
  (
    # shellcheck disable=SC2086
    train resume_killed 90 killed $exact quickstart_pretraining.py $short &
    first=$FOLDER/runs/killed/$quick/pretraining
    for _ in $(seq 600); do
      ls -d "$first"/model_0* >/dev/null 2>&1 && break
      sleep 0.1
    done
    sleep 1
    for rank in $(pgrep -f "train_net.py.*--config-file"); do
      [ "$(readlink "/proc/$rank/cwd")" = "$FOLDER/runs/killed" ] && kill -9 "$rank"
    done
    wait
    echo "killed on purpose: STATUS 0" >>"logs/resume_killed"
    # shellcheck disable=SC2086
    train resume_resumed 90 killed $exact quickstart_pretraining.py $short --resume
  ) &
  wait
  run resume_same 60 "$python" repo/tools/gpu/same_weights.py \
    "work/whole/$quick/pretraining" "work/killed/$quick/pretraining"
fi

if has speed; then
  experiment speed_tf32_64 60 -- speed base 64 profile
  experiment speed_amp_64 60 -- speed base 64 amp profile
  experiment speed_tf32_256 60 -- speed base 256
  experiment speed_amp_256 60 -- speed base 256 amp profile
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader >>logs/speed_amp_256
fi

# --- what came of it -----------------------------------------------------------------------------
noise='ibv_fork|not compatible with|given|terminate called|ONEFLOW_DEBUG|^ *$'
failed=0
for log in logs/*; do
  tail -n 1 "$log" | grep -q "STATUS 0" && continue
  failed=1
  echo "=== the end of $log"
  grep -a -v -E "$noise" "$log" | cut -c1-700 | tail -n "${LINES_EACH:-14}"
done
[ -z "${OUT:-}" ] || tar czf "$OUT/logs.tgz" logs
echo "=== table"
for log in logs/*; do
  printf '%-26s %s\n' "$(basename "$log")" "$(tail -n 1 "$log")"
  grep -a -E "^(RESULT|COMPARED|PROFILE|operators:|SAME|OTHER|  WRONG)" "$log" |
    cut -c1-"${COLUMNS_EACH:-330}" | sed 's/^/    /' | head -n 12
  grep -a -o -E "Acc@1[^,]*|reconstruction_loss [0-9.]*|Trained [0-9]+ .*" "$log" |
    tail -n 2 | sed 's/^/    /'
done
if has models; then
  for name in train train_amp; do
    if [ "$(grep -o '"bits": [0-9]*' "logs/$name")" = \
      "$(grep -o '"bits": [0-9]*' "logs/${name}_again")" ]; then
      echo "SAME BITS: $name"
    else
      echo "OTHER BITS: $name"
      failed=1
    fi
  done
fi
echo "total $(since_begin) s"
exit $failed
