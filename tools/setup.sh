#!/usr/bin/env bash
# Makes .venv in the repository root with all packages at the versions of constraints.txt, and with
# the extras of setup.py that are named: bash tools/setup.sh [EXTRA...]
# Running it again is instant when nothing changed, and repairs an install that broke off.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case "${1:-}" in
  -h | --help)
    cat <<'USAGE'
usage: bash tools/setup.sh [EXTRA ...]

Makes .venv in the repository root with all packages, 5 GB, and those of the extras of setup.py that
are named. Running it again is instant when nothing changed, and repairs an install that broke off.

examples:
  bash tools/setup.sh
  bash tools/setup.sh viz
USAGE
    exit 0 ;;
esac

venv=$root/.venv
stamp=$venv/.complete

[ "$(uname -s) $(uname -m)" = "Linux x86_64" ] ||
  fail "OneFlow 0.9.0 has builds for Linux on x86-64 only, and this is $(uname -s) on $(uname -m)"

# A name on PATH may be a pyenv shim that fails when run, so every candidate is tried.
find_base_python() {
  local version candidate
  for version in 3.10 3.9 3.8; do
    for candidate in "$(command -v "python$version" || true)" \
      "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python \
      "$(command -v uv >/dev/null && uv python find "$version" 2>/dev/null || true)" \
      "$(command -v python3 || true)"; do
      if [ -x "$candidate" ] && [ "$("$candidate" -c \
        'import sys, venv, ensurepip; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$version" ]; then
        base_python=$candidate
        return
      fi
    done
  done
  fail "no Python 3.8, 3.9 or 3.10 found (OneFlow 0.9.0 has no build for others): install Python 3.10, for example with 'uv python install 3.10'"
}

extras=("$@")
# What a GPU needs that OneFlow has no code for, and no other machine; last, because another extra
# may bring an older cuBLAS.
! has_newer_gpu || extras+=(gpu)
for extra in "${extras[@]}"; do
  grep -q "^ *\"$extra\": \[" "$root/setup.py" || fail "there is no extra $extra in setup.py"
done

# What setup.py requires: of the project itself with no argument, else of an extra.
requirements() {
  (cd "$root" && "$venv/bin/python" - "$@" <<'PYTHON'
import sys

import setuptools

metadata = {}
setuptools.setup = metadata.update
with open("setup.py") as file:
    exec(file.read())
print("\n".join(metadata["extras_require"][sys.argv[1]] if sys.argv[1:] else metadata["install_requires"]))
PYTHON
  )
}

# A stamp is written last, so an install that broke off has none. Its first line names what
# was installed, the others are extras.
wanted() { cat "$root/constraints.txt" "$root/setup.py" "$root/tools/setup.sh" | sha256sum | cut -d' ' -f1; }

complete() { # extras
  [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" = "$(wanted)" ] || return 1
  local extra
  for extra in "$@"; do grep -qx "$extra" "$stamp" || return 1; done
  "$venv/bin/python" -c '
import importlib.util as u, sys
sys.exit(any(u.find_spec(m) is None for m in
    ("oneflow", "libai", "flowvision", "numpy", "omegaconf", "hydra", "PIL", "sklearn", "pytest", "xdist")))' 2>/dev/null
}

run_pip() {
  if ! "$venv/bin/python" -m pip install -c "$root/constraints.txt" "$@" >>"$log" 2>&1; then
    local reason
    if grep -q "No space left" "$log"; then
      reason="the disk is full: free 6 GB and run it again"
    elif grep -qE "NewConnectionError|Temporary failure in name resolution|Network is unreachable|No matching distribution|ConnectTimeout|ProxyError" "$log"; then
      reason="pip could not fetch packages (no network, or no package index reachable): check the connection and run it again"
    else
      reason="pip failed: $(grep -E '^ *ERROR' "$log" | tail -n 1)"
    fi
    cp "$log" "${TMPDIR:-/tmp}/mae-setup.log" 2>/dev/null || true
    fail "$reason (log: $log)"
  fi
}

# The native libraries are a gain in speed, not a need: without a compiler set-up goes on.
# Two runs that start together build once: the second waits, so that no rank begins with the old
# library, and another with the new one.
build_native() {
  local library=$venv/lib/libmae_native.so sources error
  [ -d "$root/csrc" ] || return 0
  sources=$(cd "$root/csrc" && find . -type f -exec sha256sum {} + | LC_ALL=C sort | sha256sum)
  is_built() { [ "$(cat "$library.sources" 2>/dev/null)" = "$sources" ]; }
  ! is_built || return 0
  exec 8>"$venv/.lock.native" # not the lock of the installation, which may be held
  flock 8
  ! is_built || return 0
  if ! command -v "${CXX:-g++}" >/dev/null; then
    rm -f "$venv"/lib/libmae_{native,rest,image}.so # of other sources
    echo "No C++ compiler (${CXX:-g++}): OneFlow's own, slower CPU kernels are used," \
      "and Pillow's slower resize" >&2
    return
  fi
  echo "Building the native CPU kernels"
  error=$(bash "$root/csrc/build.sh" "$venv/bin/python" "$venv/lib" 2>&1) || true # seen below
  echo "$sources" >"$library.sources" # what fails once is not tried again until the sources change
  if [ ! -f "$library" ]; then
    echo "The native CPU kernels could not be built ($(grep -m 1 -E 'error|Error' <<<"$error" ||
      tail -n 1 <<<"$error")): OneFlow's own, slower ones are used" >&2
  fi
}

# The CUDA kernels, for GPUs that OneFlow has no code for: see csrc/cuda. NVRTC compiles them there.
build_cuda() {
  local library=$venv/lib/libmae_cuda.so sources error
  [ -d "$root/csrc/cuda" ] && grep -qx gpu "$stamp" || return 0
  command -v "${CXX:-g++}" >/dev/null || return 0 # build_native has said so
  sources=$(cd "$root/csrc" &&
    find cuda oneflow -type f -exec sha256sum {} + | LC_ALL=C sort | sha256sum)
  [ "$(cat "$library.sources" 2>/dev/null)" != "$sources" ] || return 0
  exec 8>"$venv/.lock.native"
  flock 8
  [ "$(cat "$library.sources" 2>/dev/null)" != "$sources" ] || return 0
  echo "Building the CUDA kernels"
  rm -f "$library"
  error=$(bash "$root/csrc/cuda/build.sh" "$venv/bin/python" "$venv/lib" 2>&1) || true # seen below
  echo "$sources" >"$library.sources"
  if [ ! -f "$library" ]; then
    echo "The CUDA kernels could not be built ($(grep -m 1 -E 'error|Error' <<<"$error" ||
      tail -n 1 <<<"$error")): GPUs of compute capability 9.0 and later can't be used" >&2
  fi
}

# What keeps the ports of a run on one machine to that machine. A run works without it.
build_loopback() {
  local library=$venv/lib/libmae_loopback.so source=$root/tools/loopback.c
  [ -f "$source" ] || return 0
  [ ! "$library" -nt "$source" ] || return 0
  if ! command -v "${CC:-cc}" >/dev/null ||
    ! "${CC:-cc}" -O2 -shared -fPIC -o "$library.$$" "$source" -ldl 2>/dev/null; then
    rm -f "$library" "$library.$$"
    echo "No C compiler (${CC:-cc}): other machines can reach the ports of a run, see docs/stopping.md" >&2
    return
  fi
  mv "$library.$$" "$library"
}

build_libraries() {
  build_native
  build_cuda
  build_loopback
}

if complete "${extras[@]}"; then
  build_libraries
  exit 0
fi
mkdir -p "$venv" 2>/dev/null || fail "can't write $venv: the disk is full or the folder read-only"
exec 9>"$venv/.lock"
flock 9
if complete "${extras[@]}"; then # another set-up finished while this one waited
  build_libraries
  exit 0
fi

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  free_mb=$(df -Pm "$root" | awk 'NR == 2 {print $4}')
  [ "$free_mb" -ge 6000 ] ||
    fail "not enough disk space at $root: $free_mb MB free, 6000 MB needed"
  find_base_python
  echo "Making .venv with $("$base_python" --version)"
  "$base_python" -m venv --clear "$venv" >/dev/null 2>&1 ||
    fail "could not make $venv with $base_python (is its venv module installed, is the disk full?)"
  exec 9>"$venv/.lock" # --clear removed the file that was locked
  flock 9
fi
log=$venv/setup.log
: >"$log"
# A broken-off install leaves packages that pip takes for whole: files are missing but the
# metadata is there. Where a stamp says complete and files are
# missing, everything is installed anew.
reinstall=()
installed=()
if [ -f "$stamp" ]; then
  mapfile -t -s 1 installed <"$stamp"
  if [ "$(head -n 1 "$stamp")" = "$(wanted)" ] && ! complete; then
    reinstall=(--force-reinstall)
  fi
  rm "$stamp"
fi
echo "Installing build tools"
run_pip pybind11 wheel "setuptools<70"
echo "Installing OneFlow 0.9.0 and its libraries (5 GB, a minute or more)"
left_out=libai
[[ " ${extras[*]} " != *" gpu "* ]] || left_out='libai\|nvidia-cublas' # the extra has a later one
mapfile -t packages < <(requirements | grep -v "^\($left_out\)"; requirements test)
run_pip "${reinstall[@]}" "${packages[@]}"
echo "Installing LiBai 0.1.1"
# LiBai's setup.py imports pybind11, so it can't be built in pip's isolated environment.
run_pip "${reinstall[@]}" --no-build-isolation libai==0.1.1
for extra in "${extras[@]}"; do
  echo "Installing the extra $extra"
  mapfile -t packages < <(requirements "$extra")
  run_pip "${packages[@]}"
done
{
  wanted
  printf '%s\n' "${installed[@]}" "${extras[@]}" | sort -u
} >"$stamp"
build_libraries
echo "Ready: $venv"
