#!/usr/bin/env bash
# Repeats a test program with other random numbers, shapes included, until the time is over; at least once.
# usage: tests/gpu/fuzz.sh [--seconds N] [--seed N] PROGRAM [ARGUMENTS...]
# Every run draws from another TROUPE_TEST_SEED, from --seed (default 1) on: what failed can be run again with it.
# Exit codes: 0 all runs passed, 1 one failed (its output comes last), 2 wrong usage.
set -uo pipefail
seconds=40 seed=1
refuse() { echo "fuzz.sh: $1 (see --help)" >&2; exit 2; }
while [ $# -gt 0 ]; do
  case "$1" in
    --seconds|--seed)
      [[ ${2:-} =~ ^[0-9]{1,9}$ ]] || refuse "$1 needs a number"
      [ "$1" = --seconds ] && seconds=$2 || seed=$2
      shift 2 ;;
    -h|--help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) refuse "unknown option $1" ;;
    *) break ;;
  esac
done
[ $# -gt 0 ] || refuse "which program?"
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
started=$SECONDS runs=0
while :; do
  if ! TROUPE_TEST_SEED=$seed "$@" >"$log" 2>&1; then
    echo "failed with TROUPE_TEST_SEED=$seed $*"
    cat "$log"
    exit 1
  fi
  runs=$((runs + 1)) seed=$((seed + 1))
  [ $((SECONDS - started)) -lt "$seconds" ] || break
done
echo "$runs runs passed, TROUPE_TEST_SEED up to $((seed - 1))"
