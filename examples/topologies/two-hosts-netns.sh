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
    trap - EXIT
    ;;
  down) remove ;;
  *) usage ;;
esac
