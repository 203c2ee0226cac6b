#!/usr/bin/env bash
# Installs what Troupe needs to build and to run, from the distribution's own packages (Debian 12, Ubuntu 24.04).
# usage: cluster/dependencies.sh            installs what is missing (sudo only when not root)
#        cluster/dependencies.sh --list     prints the packages with their reasons
#        cluster/dependencies.sh --tools    also what only developers use: fuzzing, linting, network namespaces
set -euo pipefail

# Boost.JSON with the fixes that we rely on needs 1.81; each distribution names its version in the package.
boost=1.81 clang_runtime=14
if [ "$(. /etc/os-release && echo "$ID")" = ubuntu ]; then boost=1.83 clang_runtime=18; fi

packages() {
  cat <<TABLE
g++                          the compiler (C++20)
cmake                        configures the build
ninja-build                  runs the build
ccache                       makes the second build a matter of seconds
mold                         links quickly
pkg-config                   finds PCRE2 and utf8proc
libcaf-dev                   actors: mailboxes, scheduling, monitors, links
libucx-dev                   transport: active messages over TCP, shared memory, InfiniBand
capnproto                    compiles the schema
libcapnp-dev                 messages
libboost${boost}-dev             HTTP server and client (Boost.Beast, Boost.Asio)
libboost-json${boost}-dev        JSON
libboost-url${boost}-dev         URLs of requests
libboost-test${boost}-dev        tests
prometheus-cpp-dev           metrics registry and text format
libspdlog-dev                logging
libfmt-dev                   formatting, under spdlog
libyaml-cpp-dev              the topology file
libcli11-dev                 the troupe command's options
libssl-dev                   HMAC of the cluster's secret
libpcre2-dev                 regular expressions with Unicode properties, in tokenizers
libutf8proc-dev              Unicode normalisation, in tokenizers
librapidcheck-dev            property tests
python3                      cluster tests and the demo's client
TABLE
}

developer_packages() {
  cat <<TABLE
clang                        libFuzzer builds
libclang-rt-${clang_runtime}-dev           sanitizer and fuzzer runtime of clang
clang-format                 formatting
clang-tidy                   linting
ucx-utils                    ucx_perftest, the bound in fabric_bench
iproute2                     network namespaces as hosts
TABLE
}

case "${1:-}" in
  --list) packages; developer_packages; exit 0 ;;
  --tools) wanted=$( (packages; developer_packages) | awk '{print $1}') ;;
  "") wanted=$(packages | awk '{print $1}') ;;
  *) sed -n '2,5s/^# //p' "$0" >&2; exit 2 ;;
esac

missing=()
for package in $wanted; do
  [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null)" = "ii " ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "dependencies: not root and no sudo; install: ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
echo "installing ${#missing[@]} packages: ${missing[*]}"
"${as_root[@]}" apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
