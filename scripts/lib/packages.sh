#!/usr/bin/env bash
# Debian's packages that a script needs; sourced.

# need PROGRAM-OR-FILE PACKAGE ...: installs from Debian's packages what is not there.
need() {
    local missing=() root=()
    while [ $# -gt 0 ]; do
        command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || [ -e "$1" ] || missing+=("$2")
        shift 2
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "installing ${missing[*]}" >&2
    [ "$(id -u)" -eq 0 ] || root=(sudo)
    "${root[@]}" apt-get update -qq
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# The peers that tests and benchmarks talk to.
need_peers() {
    need sipp sip-tester kamailio kamailio xmllint libxml2-utils ps procps ip iproute2 etcd etcd-server openssl openssl
}
