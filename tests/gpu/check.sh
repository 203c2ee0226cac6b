#!/usr/bin/env bash
# Everything that needs a real GPU, in one command and at most 8 minutes: the kernel tests, the goldens, clusters with
# shards on the GPU, NCCL where there are several GPUs, compute-sanitizer where it is installed, and then how fast it is.
# usage: tests/gpu/check.sh [--out DIRECTORY] [--no-bench]
# Runs from a source tree that is built (build/release) and from a bundle. Logs of every part, and results as JSON, go to
# DIRECTORY (default: gpu-check in the current directory); a table of all parts comes last.
# Exit codes: 0 all passed, 1 something failed, 2 wrong usage or nothing is built, 3 there is no GPU.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)

out=gpu-check bench=yes
while [ $# -gt 0 ]; do
  case "$1" in
    --out) [ $# -ge 2 ] || { echo "check.sh: --out needs a directory" >&2; exit 2; }; out=$2; shift 2 ;;
    --no-bench) bench=no; shift ;;
    -h|--help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "check.sh: unknown option $1 (see --help)" >&2; exit 2 ;;
  esac
done

if [ -x "$root/bin/troupe" ]; then
  troupe=$root/bin/troupe
  program() { echo "$root/tests/bin/$1"; }
else
  troupe=$root/build/release/bin/troupe
  program() { find "$root/build/release/tests" -type f -name "$1" -perm -u+x 2>/dev/null | head -n 1; }
fi
[ -x "$troupe" ] || { echo "check.sh: $troupe is not there; build the tree (tests/run.sh) or make a bundle" >&2; exit 2; }

mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
unset TROUPE_GPU
export TROUPE_TEST_GPU=cuda TROUPE_BIN=$troupe
cd "$root" || exit 2

"$troupe" doctor --gpu >"$out/doctor.log" 2>&1
case $? in
  0) grep '^cuda:' "$out/doctor.log" ;;
  3) grep '^no GPU' "$out/doctor.log"; echo "check.sh: nothing was checked"; exit 3 ;;
  *) cat "$out/doctor.log"; exit 1 ;;
esac

started=$SECONDS
readonly LIMIT_S=470  # in all
names=() outcomes=() failed=no

record() { names+=("$1"); outcomes+=("$2"); printf '%-28s %s\n' "$1" "$2"; }

# part NAME MAX_SECONDS COMMAND...: its output goes to NAME.log.
part() {
  local name=$1 seconds=$2 left=$((LIMIT_S - (SECONDS - started))) begin=$SECONDS code
  shift 2
  if [ "$left" -lt 5 ]; then record "$name" "skipped: no time left"; failed=yes; return; fi
  if [ ! -x "$(command -v "$1")" ]; then record "$name" "failed: $1 is missing"; failed=yes; return; fi
  [ "$seconds" -lt "$left" ] || seconds=$left
  timeout -k 5 "$seconds" "$@" >"$out/$name.log" 2>&1
  code=$?
  case $code in
    0) record "$name" "passed in $((SECONDS - begin)) s" ;;
    124|137) record "$name" "failed: not done after $seconds s"; failed=yes ;;
    *) record "$name" "failed ($code): see $out/$name.log"; tail -n 5 "$out/$name.log" | sed 's/^/    /'; failed=yes ;;
  esac
}

for test in kernels_cuda_test kernels_cuda_products_test gpu_model_test model_golden_test; do
  part "$test" 120 "$(program "$test")" --log_level=warning --report_level=short
done
if command -v python3 >/dev/null && [ -f tests/cluster/test_gpu.py ]; then
  part clusters 150 env -C tests/cluster python3 -m unittest -v test_gpu.Gpu test_lookahead.OnAGpu
else
  record clusters "skipped: needs Python 3 and tests/cluster"
fi
if [ "$(grep -c '^cuda:.* kernels cuda' "$out/doctor.log")" -ge 2 ]; then
  part nccl 60 "$(program nccl_gpu_test)" --log_level=warning --report_level=short
  grep '^skipped' "$out/nccl.log"
else
  record nccl "skipped: needs two GPUs"
fi
if command -v compute-sanitizer >/dev/null; then
  part sanitizer 90 compute-sanitizer --error-exitcode 1 "$(program gpu_bench)" --tiny
else
  record sanitizer "skipped: compute-sanitizer is not installed"
fi
if [ "$bench" = yes ]; then
  part bench_1b 90 "$(program gpu_bench)" --model 1b --json "$out/bench_1b.json"
  part bench_8b 150 "$(program gpu_bench)" --model 8b --json "$out/bench_8b.json"
  grep -h '%' "$out"/bench_*.log 2>/dev/null
fi

echo
for i in "${!names[@]}"; do printf '%-28s %s\n' "${names[$i]}" "${outcomes[$i]}"; done | tee "$out/summary.txt"
[ "$failed" = no ]
