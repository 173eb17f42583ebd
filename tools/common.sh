# Shell functions that the scripts of this folder share. Sourced, never run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

# Sets `python` to an interpreter that has the project's packages, installing them if need be.
# MAE_PYTHON names one to use as it is, with no set-up.
find_python() {
  if [ -n "${MAE_PYTHON:-}" ]; then
    python=$MAE_PYTHON
    "$python" -c '' 2>/dev/null || fail "MAE_PYTHON=$MAE_PYTHON does not run: name a Python with the project's packages"
    return
  fi
  bash "$root/tools/setup.sh" || exit 1
  python=$root/.venv/bin/python
}

cpu_cores() { nproc; }

# GPUs that this OneFlow build has code for (compute capability 6.0 to 8.x) and that
# CUDA_VISIBLE_DEVICES leaves visible.
usable_gpus() {
  command -v nvidia-smi >/dev/null || { echo 0; return; }
  local selection=()
  if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    [ -n "$CUDA_VISIBLE_DEVICES" ] || { echo 0; return; }
    selection=(-i "$CUDA_VISIBLE_DEVICES")
  fi
  # It fails where there is a tool but no driver, as in a container started without its GPUs.
  { nvidia-smi "${selection[@]}" --query-gpu=compute_cap --format=csv,noheader 2>/dev/null || true; } |
    awk -F. '$1 >= 6 && $1 <= 8 {n++} END {print n + 0}'
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

# The BLAS inside OneFlow is ten times slower than MKL on most CPUs. OneFlow calls BLAS through
# the dynamic linker, so a preloaded library takes its place. $1 is the number of ranks that share
# the machine. Sets the array `cpu_environment` for `env`.
set_cpu_environment() {
  local threads=$(($(cpu_cores) / $1)) prefix blas=
  [ "$threads" -ge 1 ] || threads=1
  cpu_environment=(
    "OMP_NUM_THREADS=${OMP_NUM_THREADS:-$threads}"
    "MKL_NUM_THREADS=${MKL_NUM_THREADS:-$threads}"
  )
  prefix=$("$python" -c 'import sys; print(sys.prefix)')
  # The native kernels' companion, see csrc/oneflow/rest.c.
  if [ "${MAE_NATIVE:-}" != 0 ] && [ -f "$prefix/lib/libmae_rest.so" ]; then
    LD_PRELOAD=$prefix/lib/libmae_rest.so${LD_PRELOAD:+:$LD_PRELOAD}
  fi
  for blas in "$prefix"/lib/libmkl_rt.so.*; do
    [ -e "$blas" ] || { echo "No MKL below $prefix: OneFlow's own operators use its own, slower BLAS." >&2; return; }
    cpu_environment+=("LD_PRELOAD=$blas${LD_PRELOAD:+:$LD_PRELOAD}")
    return
  done
}

# In a run on one machine nothing listens for other machines: see tools/loopback.c. Called before
# `set_cpu_environment`, which keeps what is preloaded.
listen_on_loopback() {
  local library
  library=$("$python" -c 'import sys; print(sys.prefix)')/lib/libmae_loopback.so
  [ ! -e "$library" ] || export LD_PRELOAD="$library${LD_PRELOAD:+:$LD_PRELOAD}"
}
