#!/usr/bin/env bash
# Runs the tests; takes pytest's own arguments. Sets up .venv first if need be.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

find_python
set_cpu_environment 1
cd "$root"
[ $# -gt 0 ] || set -- tests
exec env "${cpu_environment[@]}" PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" MAE_PYTHON="$python" \
  "$python" -m pytest "$@"
