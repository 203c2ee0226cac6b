#!/usr/bin/env bash
# Builds Troupe, starts the shipped cluster (2 pipeline stages x 2 tensor shards), asks the shipped model a few
# questions over HTTP, shows where each actor runs, and takes everything down again.
# usage: examples/demo.sh [TOPOLOGY]
set -euo pipefail
cd "$(dirname "$0")/.."
topology=${1:-examples/topologies/two-by-two.yaml}

cluster/dependencies.sh
cmake --preset release >build-demo.log 2>&1 || { cat build-demo.log; exit 1; }
rm -f build-demo.log
cmake --build --preset release --target troupe where_a_token_goes
troupe=build/release/bin/troupe

echo "== plan"
"$troupe" plan "$topology"
echo "== start"
"$troupe" up --detach "$topology"
trap '"$troupe" down "$topology" >/dev/null 2>&1 || true' EXIT
echo "== where each actor runs"
"$troupe" status "$topology"
echo "== questions"
for question in "What is 27 + 45?" "Spell the word apple." "What is the capital of France?"; do
  echo "> $question"
  "$troupe" generate --chat --temperature 0 "$question"
done
echo "== where the time of a token goes (examples/experiments)"
build/release/bin/where_a_token_goes "$topology"
echo "== down"
"$troupe" down "$topology"
trap - EXIT
