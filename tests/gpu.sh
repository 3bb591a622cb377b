#!/usr/bin/env bash
# Everything that a GPU proves, in one run: build for this GPU, `pytest -m cuda`, then compute-sanitizer's
# memcheck and racecheck over the same samples. Needs no network; torch, nvcc, cmake and pytest are there.
#   tests/gpu.sh                 exits with 3 where torch sees no GPU
#   tests/gpu.sh --build         stops after the build
#   tests/gpu.sh --tests         stops before compute-sanitizer
#   tests/gpu.sh --without-gpu   builds for sm_90a, collects the tests, says what it leaves out
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
build=build/gpu
reports=$build/reports
mkdir -p "$reports"
started=$SECONDS
failed=0

stage() { # name, seconds allowed, command: runs it, keeps its output, prints one line
  local name=$1 limit=$2 begun=$SECONDS
  shift 2
  if timeout "$limit" bash -c '"$@"' stage "$@" >"$reports/$name.log" 2>&1; then
    printf '%-10s ok      %4d s  %s\n' "$name" $((SECONDS - begun)) "$(tail -n 1 "$reports/$name.log")"
  else
    local status=$?
    printf '%-10s FAILED  %4d s  exit %d, last lines of %s:\n' "$name" $((SECONDS - begun)) \
      "$status" "$reports/$name.log"
    tail -n 40 "$reports/$name.log"
    failed=1
    return 1
  fi
}

build_all() {
  cmake -G Ninja -B "$build" -DCMAKE_INSTALL_PREFIX="$PWD/$build/python" -DTOKENBURST_CUDA=on \
    -DCMAKE_CUDA_ARCHITECTURES="$1" \
    -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" . &&
    cmake --build "$build" --target install &&
    for item in python/tokenburst/*; do
      case $item in
        *.so | *__pycache__) ;;
        *) ln -sfn "$PWD/$item" "$build/python/tokenburst/$(basename "$item")" ;;
      esac
    done && echo "built for $1"
}

sanitized() { # tool; allocations of exact size, so that memcheck sees the end of every tensor
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --error-exitcode 9 \
    --target-processes application-only --print-limit 20 \
    "$python" -m pytest -m cuda -k cuda_equals_reference tests/test_catalogue.py
}

export -f build_all sanitized
export python build

gpu=$("$python" - <<'PY'
import torch

if torch.cuda.is_available():
    major, minor = torch.cuda.get_device_capability()
    print(f"{major}{minor}{'a' if major == 9 else ''}-real {torch.cuda.get_device_name()}")
PY
)
if [ -z "$gpu" ] && [ "${1:-}" != --without-gpu ]; then
  echo "torch sees no GPU; tests/simt runs the kernels without one, --without-gpu tries this script"
  exit 3
fi
name=${gpu#* }
echo "GPU: ${name:-none}; $("$python" -c 'import platform, torch
print("Python", platform.python_version(), "torch", torch.__version__)')"

stage build 300 build_all "$([ -n "$gpu" ] && echo "${gpu%% *}" || echo 90a-real)" || exit 1
export PYTHONPATH=$PWD/$build/python
if [ -z "$gpu" ]; then
  stage collect 120 "$python" -m pytest -m cuda --collect-only tests
  echo "left out, no GPU: pytest -m cuda, compute-sanitizer memcheck, compute-sanitizer racecheck"
  exit $failed
fi
if [ "${1:-}" = --build ]; then exit $failed; fi
stage tests 180 "$python" -m pytest -m cuda tests
if [ "${1:-}" = --tests ]; then exit $failed; fi
if command -v compute-sanitizer >/dev/null; then
  stage memcheck 120 sanitized memcheck
  stage racecheck 120 sanitized racecheck
else
  echo "left out: compute-sanitizer is not on PATH"
  failed=1
fi
echo "total $((SECONDS - started)) s; logs in $reports"
exit $failed
