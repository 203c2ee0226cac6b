#!/usr/bin/env bash
# Whole clusters with shards on GPUs, which must answer as a CPU does: one GPU; two processes that share it; a GPU in
# front of a core; a GPU with the experts of its model on a core. Needs the troupe command and nothing else.
# usage: tests/gpu/clusters.sh TROUPE [QUESTIONS]     from the root of a source tree or a bundle
# Exit codes: 0 all answers agree, 1 one differs or a cluster failed, 2 wrong usage.
set -uo pipefail
[ $# -ge 1 ] && [ -x "$1" ] || { echo "clusters.sh: where is troupe? usage: clusters.sh TROUPE [QUESTIONS]" >&2; exit 2; }
troupe=$1 count=${2:-20}
folder=$(mktemp -d) || exit 1
up=
finish() { [ -z "$up" ] || "$troupe" down "$up" >/dev/null 2>&1; rm -rf "$folder"; }
trap finish EXIT

questions=()
for a in 3 12 27 45 68; do
  for b in 4 19 31 50; do questions+=("What is $a + $b?"); done
done
questions=("${questions[@]:0:count}")

# A port that nobody listens on, as far as one can know.
port=$((20000 + RANDOM % 20000))
while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done

# topology NAME MODEL < nodes and stages
topology() {
  { echo "cluster: gpu-check-$1-$$"; echo "model: examples/models/$2"; cat
    echo "limits: {kv_memory: 16MiB, max_model_len: 256, step_timeout_ms: 240000}"; } >"$folder/$1.yaml"
}
topology cpu tutor <<END
nodes: [{name: only, host: localhost, devices: [cpu:0]}]
place: {gateway: {node: only, listen: "127.0.0.1:$port"}}
END
topology gpu tutor <<END
nodes: [{name: only, host: localhost, devices: [cuda:0]}]
place: {gateway: {node: only, listen: "127.0.0.1:$port"}}
END
topology shared tutor <<END
nodes: [{name: left, host: localhost, devices: [cuda:0]}, {name: right, host: localhost, devices: [cuda:0]}]
place:
  gateway: {node: left, listen: "127.0.0.1:$port"}
  stages: [{layers: 0-5, shards: [left/cuda:0, right/cuda:0]}]
END
topology mixed tutor <<END
nodes: [{name: left, host: localhost, devices: [cuda:0]}, {name: right, host: localhost, devices: [cpu:0]}]
place:
  gateway: {node: left, listen: "127.0.0.1:$port"}
  stages: [{layers: 0-2, shards: [left/cuda:0]}, {layers: 3-5, shards: [right/cpu:0]}]
END
topology cpu_experts tutor-moe <<END
nodes: [{name: only, host: localhost, devices: [cpu:0]}]
place: {gateway: {node: only, listen: "127.0.0.1:$port"}}
END
topology experts tutor-moe <<END
nodes: [{name: left, host: localhost, devices: [cuda:0]}, {name: right, host: localhost, devices: [cpu:0]}]
place:
  gateway: {node: left, listen: "127.0.0.1:$port"}
  stages: [{layers: 0-5, shards: [left/cuda:0], experts: [right/cpu:0]}]
END

# answers NAME: to all questions, of the cluster of that topology.
answers() {
  up=$folder/$1.yaml
  "$troupe" up --detach "$up" >"$folder/$1.log" 2>&1 || { cat "$folder/$1.log"; up=; return 1; }
  local question
  for question in "${questions[@]}"; do
    "$troupe" generate --port "$port" --chat --temperature 0 --timeout 240 "$question" </dev/null || return 1
  done >"$folder/$1.answers"
  "$troupe" down "$up" >/dev/null && up=
}

for name in cpu cpu_experts; do
  answers "$name" || { echo "the cluster on a CPU failed"; exit 1; }
done
status=0
for name in gpu shared mixed experts; do
  expected=$folder/cpu.answers
  [ "$name" != experts ] || expected=$folder/cpu_experts.answers
  if ! answers "$name"; then
    echo "$name: failed"
    [ -z "$up" ] || "$troupe" down "$up" >/dev/null 2>&1
    up= status=1
  elif differences=$(diff "$expected" "$folder/$name.answers"); then
    echo "$name: ${#questions[@]} answers, all as the CPU's"
  else
    echo "$name: answers differ from the CPU's (<)"
    echo "$differences"
    status=1
  fi
done
exit "$status"
