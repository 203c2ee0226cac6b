#!/usr/bin/env bash
# Builds Troupe and runs its tests: no GPU, no network beyond the package registry, no Redis.
# usage: tests/run.sh [--long] [--sanitize] [NAME...]
#   --long       also the slow suites: sanitizer builds of the fabric and engine tests, and minutes of fuzzing
#   --sanitize   only the sanitizer builds
#   NAME         only the tests whose name matches one of these regular expressions
set -euo pipefail
cd "$(dirname "$0")/.."

long=no sanitize=no names=()
for argument in "$@"; do
  case "$argument" in
    --long) long=yes ;;
    --sanitize) sanitize=yes ;;
    -h|--help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "run.sh: unknown option $argument (see --help)" >&2; exit 2 ;;
    *) names+=("$argument") ;;
  esac
done

cluster/dependencies.sh
jobs=$(nproc)
select=() sanitizer_select=(-LE cluster)  # whole clusters take too long there
[ ${#names[@]} -eq 0 ] || select=(-R "$(IFS='|'; echo "${names[*]}")") sanitizer_select=("${select[@]}")

run_preset() {  # preset, ctest arguments...
  local preset=$1; shift
  cmake --preset "$preset" -DTROUPE_CUDA_ARCHITECTURES=80 >"build-$preset.log" 2>&1 || { cat "build-$preset.log"; return 1; }
  rm -f "build-$preset.log"
  cmake --build --preset "$preset" -j "$jobs"
  ctest --test-dir "build/$preset" --output-on-failure --no-tests=error "$@"
}

if [ "$sanitize" = no ]; then
  run_preset release "${select[@]}"
fi
if [ "$sanitize" = yes ] || [ "$long" = yes ]; then
  export TSAN_OPTIONS="suppressions=$PWD/tests/tsan.suppressions"
  # UCX's hooks of memory functions run in threads that end, when ThreadSanitizer has left them: it crashes.
  export UCX_MEM_EVENTS=n
  run_preset asan "${sanitizer_select[@]}"
  # CAF hands messages over in a library that ThreadSanitizer did not see being compiled: tests with actors would
  # report every one of them.
  export BOOST_TEST_RUN_FILTERS='!over_fabric'
  run_preset tsan "${sanitizer_select[@]}" -E '^(fabric|actors|gateway)_test$'
  unset BOOST_TEST_RUN_FILTERS
fi
if [ "$long" = yes ]; then
  cluster/dependencies.sh --tools
  cmake --preset fuzz && cmake --build --preset fuzz -j "$jobs" --target fuzzers
  tests/fuzz/run.sh build/fuzz 60
fi
