# Shell functions that the scripts of this folder share. Sourced, never run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

# Sets `python` to an interpreter that has the project's packages, installing them if need be, and
# `libraries` to the folder of the libraries beside them. MAE_PYTHON names one to use as it is, with
# no set-up.
find_python() {
  if [ -n "${MAE_PYTHON:-}" ]; then
    python=$MAE_PYTHON
    libraries=$("$python" -c 'import sys; print(sys.prefix)' 2>/dev/null)/lib ||
      fail "MAE_PYTHON=$MAE_PYTHON does not run: name a Python with the project's packages"
    refuse_colon "$libraries"
    return
  fi
  refuse_colon "$root"
  bash "$root/tools/setup.sh" || exit 1
  python=$root/.venv/bin/python
  libraries=$root/.venv/lib
}

# Libraries below such a folder can't be named to the dynamic linker, and Python makes no .venv there.
refuse_colon() {
  [[ "$1" != *:* ]] ||
    fail "$1: the name of a folder holds a colon, at which paths are split: rename it"
}

cpu_cores() { nproc; }

# The compute capability, 8.6 for example, of each GPU that CUDA_VISIBLE_DEVICES leaves visible.
gpu_capabilities() {
  command -v nvidia-smi >/dev/null || return 0
  local selection=()
  if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    [ -n "$CUDA_VISIBLE_DEVICES" ] || return 0
    selection=(-i "$CUDA_VISIBLE_DEVICES")
  fi
  # It fails where there is a tool but no driver, as in a container started without its GPUs.
  nvidia-smi "${selection[@]}" --query-gpu=compute_cap --format=csv,noheader 2>/dev/null || true
}

# Whether there is a GPU that this OneFlow build has no code for, which needs csrc/cuda.
has_newer_gpu() { gpu_capabilities | awk -F. '$1 >= 9 {n++} END {exit !n}'; }

# The library of csrc/cuda is there, and wanted: see projects/MAE/runtime/cuda_kernels.py.
has_cuda_kernels() {
  case "${MAE_CUDA_KERNELS:-}" in
    0) return 1 ;;
    "" | 1) [ -f "$libraries/libmae_cuda.so" ] ;;
    *) [ -f "$MAE_CUDA_KERNELS" ] ;;
  esac
}

# How many GPUs ranks can compute on, after find_python: all that this OneFlow build has code for
# (compute capability 6.0 to 8.x); one of newer ones, where there are kernels for it.
usable_gpus() {
  local newer=0
  ! has_cuda_kernels || newer=1
  gpu_capabilities | awk -F. -v newer="$newer" \
    '$1 >= 6 && $1 <= 8 {n++} $1 >= 9 {m = newer} END {print n ? n : m + 0}'
}

# How many ranks a run gets that asks for no number; its arguments are those of the run.
default_ranks() {
  local argument gpus
  for argument in "$@"; do
    [ "$argument" != "train.device=cpu" ] || { cpu_cores; return; }
  done
  gpus=$(usable_gpus)
  if [ "$gpus" -gt 0 ]; then echo "$gpus"; else cpu_cores; fi
}

# Sets the array `cpu_environment` for `env`. $1 is the number of ranks that share the machine.
set_cpu_environment() {
  local threads=$(($(cpu_cores) / $1))
  [ "$threads" -ge 1 ] || threads=1
  # The native kernels' companion, see csrc/oneflow/rest.c.
  [ "${MAE_NATIVE:-}" = 0 ] || preload libmae_rest.so
  mapfile -t cpu_environment < <(
    "$python" "$root/projects/MAE/runtime/cpu_environment.py" "$threads"
  )
}

# In a run on one machine nothing listens for other machines: see tools/loopback.c.
listen_on_loopback() { preload libmae_loopback.so; }

# Puts a library, where it is there, before others in every process that is started from now on.
preload() {
  local library=$libraries/$1
  [ -e "$library" ] || return 0
  # LD_PRELOAD is split at blanks, so below a folder with a blank a library goes by its name.
  if [[ "$libraries" == *[[:space:]]* ]]; then
    library=$1
    case ":${LD_LIBRARY_PATH:-}:" in
      *":$libraries:"*) ;;
      *) export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" ;;
    esac
  fi
  export LD_PRELOAD="$library${LD_PRELOAD:+:$LD_PRELOAD}"
}
