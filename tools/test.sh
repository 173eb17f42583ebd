#!/usr/bin/env bash
# Runs the tests; takes pytest's own arguments. Sets up .venv first if need be.
# --gpu [GROUP ...] checks the CUDA kernels on this machine's GPU instead: see tools/gpu/check.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if [ "${1:-}" = --gpu ]; then exec bash "$root/tools/gpu/here.sh" "${@:2}"; fi
find_python
set_cpu_environment 1
cd "$root"
run_pytest() {
  # Hundreds of processes import this project: they must not compile it each time.
  env -u PYTHONDONTWRITEBYTECODE "${cpu_environment[@]}" PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" MAE_PYTHON="$python" \
    "$python" -m pytest "$@"
}
# Three files at a time, where there are several: most tests wait for processes that start and end.
some_at_a_time=(-n 3 --dist loadfile)
if [ $# -gt 0 ]; then
  for argument in "$@"; do
    if [ -d "$argument" ]; then
      run_pytest "${some_at_a_time[@]}" "$@"
      exit
    fi
  done
  run_pytest "$@"
else
  run_pytest -rs "${some_at_a_time[@]}" tests
  # Once more where a model's arithmetic is checked, with OneFlow's own CPU kernels.
  MAE_NATIVE=0 run_pytest "${some_at_a_time[@]}" tests/unit/modeling
fi
