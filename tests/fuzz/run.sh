#!/usr/bin/env bash
# Runs every fuzzer that was built, each for some seconds; ends at the first finding, which libFuzzer leaves in BUILD.
# usage: tests/fuzz/run.sh BUILD SECONDS      after: cmake --preset fuzz && cmake --build --preset fuzz --target fuzzers
set -euo pipefail
[ $# -eq 2 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }
build=$1 seconds=$2 here=$(cd "$(dirname "$0")" && pwd)

fuzzers=("$build"/tests/fuzz/*_fuzz)
[ -x "${fuzzers[0]}" ] || { echo "run.sh: no fuzzers in $build/tests/fuzz" >&2; exit 2; }
for fuzzer in "${fuzzers[@]}"; do
  name=$(basename "$fuzzer" _fuzz)
  found="$build/corpus/$name"   # what this run learns; the repository keeps only the first inputs
  mkdir -p "$found"
  seeds=()
  [ ! -d "$here/${name}_corpus" ] || seeds=("$here/${name}_corpus")
  echo "== $name, $seconds s"
  "$fuzzer" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$build/$name-" "$found" "${seeds[@]}"
done
