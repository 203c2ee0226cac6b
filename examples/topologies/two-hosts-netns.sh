#!/bin/sh
# Makes or removes the two network namespaces of two-hosts.yaml. Needs root and iproute2.
# usage: two-hosts-netns.sh up|down
set -eu

usage() {
  echo "usage: $0 up|down" >&2
  exit 2
}

remove() {
  # The veth pair goes with its namespaces.
  for name in troupe-left troupe-right; do
    if [ -e "/run/netns/$name" ]; then ip netns delete "$name"; fi
  done
}

# UCX uses the interfaces that carry when a process starts; the kernel reports a new pair's carrier a moment later.
wait_for_carrier() {
  tries=100
  until ip -n "$1" -o link show "$2" | grep -q 'state UP'; do
    tries=$((tries - 1))
    if [ "$tries" -eq 0 ]; then
      echo "$0: $2 in $1 has no carrier after 10 s" >&2
      exit 1
    fi
    sleep 0.1
  done
}

[ $# -eq 1 ] || usage
case $1 in
  up)
    remove
    trap 'remove' EXIT
    ip netns add troupe-left
    ip netns add troupe-right
    ip link add tr-left netns troupe-left type veth peer name tr-right netns troupe-right
    ip -n troupe-left address add 10.77.0.1/24 dev tr-left
    ip -n troupe-right address add 10.77.0.2/24 dev tr-right
    for side in left right; do
      ip -n "troupe-$side" link set lo up
      ip -n "troupe-$side" link set "tr-$side" up
    done
    for side in left right; do wait_for_carrier "troupe-$side" "tr-$side"; done
    trap - EXIT
    ;;
  down) remove ;;
  *) usage ;;
esac
