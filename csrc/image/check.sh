#!/usr/bin/env bash
# Runs the image functions under a sanitizer:
# bash csrc/image/check.sh {address,undefined,thread} [CASES [FIRST]]
set -euo pipefail
source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# GCC's g++ takes a second file for C++, unless it is told again.
"${CXX:-g++}" -std=c11 -O1 -g "-fsanitize=$1" -fno-sanitize-recover=all \
  -x c "$source/check_resample.c" -x c "$source/resample.c" -lm -o "$work/check"
"$work/check" "${@:2}"
