#!/usr/bin/env bash
# Runs the tests; takes pytest's own arguments. Sets up .venv first if need be.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

find_python
set_cpu_environment 1
cd "$root"
run_pytest() {
  env "${cpu_environment[@]}" PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" MAE_PYTHON="$python" \
    "$python" -m pytest "$@"
}
if [ $# -gt 0 ]; then
  run_pytest "$@"
else
  # Two files at a time: most tests wait for processes that start and end.
  run_pytest -rs -n 2 --dist loadfile tests
  # Once more where a model's arithmetic is checked, with OneFlow's own CPU kernels.
  MAE_NATIVE=0 run_pytest tests/unit/modeling
fi
