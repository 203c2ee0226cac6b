#!/usr/bin/env bash
# Everything that needs a real GPU, in one command and at most 8 minutes: the kernel tests, then with random shapes,
# the goldens, clusters with shards on the GPU, NCCL where there are several, compute-sanitizer where it is installed,
# and then how fast it is.
# usage: tests/gpu/check.sh [--out DIRECTORY] [--no-bench] [--emulated] [--only PART[,PART...]]
# Runs from a source tree that is built (build/release, or TROUPE_BIN's) and from a bundle; needs nothing installed but
# a driver. Logs of every part, and results as JSON, go to DIRECTORY (default: gpu-check in the current directory); a
# table of all parts comes last, and is summary.txt there.
#   --emulated   a rehearsal without a GPU: the same parts on an emulated one, but samples of the kernel tests, and the
#                benchmark with tiny shapes
#   --only       only these parts, by the names in the table
# Exit codes: 0 all passed, 1 something failed, 2 wrong usage or nothing is built, 3 there is no GPU.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)

out=gpu-check bench=yes emulated=no only=
while [ $# -gt 0 ]; do
  case "$1" in
    --out) [ $# -ge 2 ] || { echo "check.sh: --out needs a directory" >&2; exit 2; }; out=$2; shift 2 ;;
    --only) [ $# -ge 2 ] || { echo "check.sh: --only needs the names of parts" >&2; exit 2; }; only=,$2,; shift 2 ;;
    --no-bench) bench=no; shift ;;
    --emulated) emulated=yes; shift ;;
    -h|--help) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "check.sh: unknown option $1 (see --help)" >&2; exit 2 ;;
  esac
done

if [ -x "$root/bin/troupe" ]; then
  troupe=$root/bin/troupe programs=$root/tests/bin
else
  build=$root/build/release
  [ -z "${TROUPE_BIN:-}" ] || build=$(dirname "$(dirname "$TROUPE_BIN")")  # another build of this tree
  troupe=$build/bin/troupe programs=$build/tests
fi
[ -x "$troupe" ] || { echo "check.sh: $troupe is not there; build the tree (tests/run.sh) or make a bundle" >&2; exit 2; }
# A test program's path; its name where there is none.
program() {
  local found
  found=$(find "$programs" -type f -name "$1" -perm -u+x 2>/dev/null | head -n 1)
  echo "${found:-$1}"
}

mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
rm -f "$out/summary.txt"
export TROUPE_BIN=$troupe
[ -n "${TROUPE_FIXTURES:-}" ] || for fixtures in "$root/tests/fixtures" "$root/../shared/fixtures"; do
  [ ! -d "$fixtures/stories260K" ] || { export TROUPE_FIXTURES=$fixtures; break; }
done
if [ "$emulated" = yes ]; then
  export TROUPE_GPU=emulated
  unset TROUPE_TEST_GPU
  tiny=--tiny fuzz_seconds=1 questions=1 models=tiny
  # Samples: all of it takes minutes, and runs as tests of their own.
  kernels_sample=--run_test=norm_on_gpus,rope_on_gpus,gpu_packed_weight products_sample=--run_test=gpu_experts,gpu_large_linear
  echo "EMULATED: a rehearsal of this script on the CPU; it says nothing about any GPU"
else
  unset TROUPE_GPU
  export TROUPE_TEST_GPU=cuda
  tiny='' fuzz_seconds=20 questions=20 models='1b 8b moe' kernels_sample='' products_sample=''
fi
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
wanted() { [ -z "$only" ] || [[ $only == *,$1,* ]]; }
skip() { ! wanted "$1" || record "$1" "skipped: $2"; }

# part NAME MAX_SECONDS COMMAND...: its output goes to NAME.log.
part() {
  local name=$1 seconds=$2 left=$((LIMIT_S - (SECONDS - started))) begin=$SECONDS code
  shift 2
  wanted "$name" || return 0
  if [ "$left" -lt 5 ]; then record "$name" "skipped: no time left"; failed=yes; return; fi
  if ! command -v "$1" >/dev/null; then record "$name" "failed: $1 is missing"; failed=yes; return; fi
  [ "$seconds" -lt "$left" ] || seconds=$left
  timeout -k 5 "$seconds" "$@" >"$out/$name.log" 2>&1
  code=$?
  case $code in
    0) record "$name" "passed in $((SECONDS - begin)) s" ;;
    124|137) record "$name" "failed: not done after $seconds s"; failed=yes ;;
    *) record "$name" "failed ($code): see $out/$name.log"; tail -n 5 "$out/$name.log" | sed 's/^/    /'; failed=yes ;;
  esac
}

quiet='--log_level=warning --report_level=short'
part kernels 60 "$(program kernels_cuda_test)" $quiet $kernels_sample
part products 60 "$(program kernels_cuda_products_test)" $quiet $products_sample
part models 60 "$(program gpu_model_test)" $quiet
if [ -n "${TROUPE_FIXTURES:-}" ]; then
  part goldens 60 "$(program model_golden_test)" $quiet '--run_test=golden/*gpu*'
else
  skip goldens "no fixtures; set TROUPE_FIXTURES"
fi
part fuzz_kernels 60 tests/gpu/fuzz.sh --seconds "$fuzz_seconds" "$(program kernels_cuda_test)" $quiet $kernels_sample
part fuzz_products 60 tests/gpu/fuzz.sh --seconds "$fuzz_seconds" "$(program kernels_cuda_products_test)" $quiet $products_sample
part clusters 120 tests/gpu/clusters.sh "$troupe" "$questions"
if [ "$emulated" = yes ]; then
  skip cluster_tests "on emulated GPUs they are tests of their own"
  skip nccl "emulated GPUs have no NCCL"
else
  if command -v python3 >/dev/null && [ -f tests/cluster/test_gpu.py ]; then
    part cluster_tests 100 env -C tests/cluster python3 -m unittest -v test_gpu.Gpu test_lookahead.OnAGpu
  else
    skip cluster_tests "needs Python 3 and tests/cluster"
  fi
  if [ "$(grep -c '^cuda:.* kernels cuda' "$out/doctor.log")" -ge 2 ]; then
    part nccl 60 "$(program nccl_gpu_test)" $quiet
    [ ! -f "$out/nccl.log" ] || grep '^skipped' "$out/nccl.log"
  else
    skip nccl "needs two GPUs"
  fi
fi
if [ "$emulated" = yes ]; then
  skip sanitizer "an emulated GPU has no compute-sanitizer"
elif sanitizer=$(command -v compute-sanitizer || command -v /usr/local/cuda/bin/compute-sanitizer); then
  part sanitizer 60 "$sanitizer" --error-exitcode 1 "$(program gpu_bench)" --tiny
else
  skip sanitizer "compute-sanitizer is not installed"
fi
if [ "$bench" = yes ]; then
  for model in $models; do
    part "bench_$model" 90 "$(program gpu_bench)" ${tiny:---model "$model"} --json "$out/bench_$model.json"
    [ ! -f "$out/bench_$model.log" ] || grep -h '%' "$out/bench_$model.log"
  done
  if ! command -v python3 >/dev/null; then
    skip peer "there is no Python"
  elif ! why=$(python3 tests/bench/gpu_peer.py --check); then
    skip peer "$why"
  else
    part peer 60 python3 tests/bench/gpu_peer.py --json "$out/peer.json"
    [ ! -f "$out/peer.log" ] || cat "$out/peer.log"
  fi
fi

echo
{
  [ "$emulated" = no ] || echo "EMULATED: no GPU was checked"
  for i in "${!names[@]}"; do printf '%-28s %s\n' "${names[$i]}" "${outcomes[$i]}"; done
} | tee "$out/summary.txt"
[ ${#names[@]} -gt 0 ] || { echo "check.sh: --only names no part" >&2; exit 2; }
[ "$failed" = no ]
