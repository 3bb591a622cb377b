#!/usr/bin/env bash
# The CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer: builds the extension with them
# and runs the op tests, or the tests given as arguments.
#   tests/sanitize.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
cxx=${CXX:-g++}
build=build/asan

"$python" -m cmake --version >/dev/null 2>&1 && cmake=("$python" -m cmake) || cmake=(cmake)
"${cmake[@]}" -G Ninja -B "$build" -DCMAKE_INSTALL_PREFIX="$PWD/$build/python" \
  -DTOKENBURST_CUDA=off -DTOKENBURST_SANITIZE=address,undefined \
  -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" . >"$build.log" 2>&1 ||
  { cat "$build.log"; exit 1; }
"${cmake[@]}" --build "$build" --target install >>"$build.log" 2>&1 || { cat "$build.log"; exit 1; }
# The Python sources beside the sanitized module: one directory for the package, not two.
for item in python/tokenburst/*; do
  case $item in
    *.so | *__pycache__) ;;
    *) ln -sfn "$PWD/$item" "$build/python/tokenburst/$(basename "$item")" ;;
  esac
done

if [ $# -eq 0 ]; then
  set -- tests/ops tests/test_catalogue.py -k "not opcheck"
fi
# Sanitizer runtimes come first in the process; torch's own allocations are never freed at exit, so
# leaks are not asked for. libstdc++ must be there before the interceptors look for __cxa_throw.
preload=""
for runtime in libasan.so libubsan.so libstdc++.so.6; do
  preload+=" $("$cxx" -print-file-name=$runtime)"
done
LD_PRELOAD="$preload" PYTHONMALLOC=malloc PYTHONPATH="$build/python" \
  ASAN_OPTIONS=detect_leaks=0:abort_on_error=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
  "$python" -m pytest -p no:cacheprovider "$@"
