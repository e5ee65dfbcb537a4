#!/usr/bin/env bash
# Two containers on one dual-stack bridge, from ADD to DEL, with the built executables.
#
# Runs in network and mount namespaces of its own, with empty state directories, so that
# nothing of the machine is touched and nothing stays behind. Needs root and `make build`.
set -euo pipefail

bin=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/dist/cnm/bin
config='
  "cniVersion": "1.1.0",
  "name": "demo",
  "type": "bridge",
  "bridge": "demo0",
  "isGateway": true,
  "isDefaultGateway": true,
  "ipam": {
    "type": "host-local",
    "ranges": [
      [{"subnet": "10.88.0.0/24"}],
      [{"subnet": "fd00:88::/64"}]
    ]
  }'

fail() {
    printf '\ndemo: %s\n' "$*" >&2
    exit 1
}

if [[ ${1-} != inside ]]; then
    [[ $EUID -eq 0 ]] || fail "must run as root"
    [[ -x $bin/bridge ]] || fail "$bin/bridge is missing; run make build"
    exec unshare --net --mount --propagation private "$BASH" "${BASH_SOURCE[0]}" inside
fi
trap 'fail "failed in line $LINENO: $BASH_COMMAND"' ERR
set -o errtrace

heading() {
    if [[ -t 1 ]]; then printf '\n\033[1m== %s\033[0m\n' "$*"; else printf '\n== %s\n' "$*"; fi
}

# cni VERB [CONTAINER [MEMBERS]]: call the plugin; MEMBERS go into the configuration.
cni() {
    local -a variables=("CNI_COMMAND=$1" "CNI_PATH=$bin")
    if [[ -n ${2-} ]]; then
        variables+=("CNI_CONTAINERID=$2" "CNI_NETNS=/run/netns/$2" "CNI_IFNAME=eth0")
    fi
    env "${variables[@]}" "$bin/bridge" <<< "{$config${3-}}"
}

# quiet VERB ...: a call that must say nothing.
quiet() {
    local said
    said=$(cni "$@") || fail "$1: $said"
    [[ -z $said ]] || fail "$1 should be silent and said: $said"
}

inside() { nsenter --net="/run/netns/$1" "${@:2}"; }

reach() {
    local answer
    answer=$(inside "$1" ping -n -q -c 3 -i 0.2 -W 2 "$2") || fail "no answer: $answer"
    printf '%s -> %-12s %s\n' "$1" "$2" "$(grep received <<< "$answer")"
}

address() { ip -n "$1" -o "-$2" address show dev eth0 scope global | awk '{ sub("/.*", "", $4); print $4 }'; }
gateway() { ip -n "$1" "-$2" route show default | awk '{ print $3; exit }'; }

# state: what the node keeps: the bridge's ports, addresses in use, records of endpoints.
state() {
    ip -o link show master demo0 | awk '{ sub("@.*", "", $2); print "port    " $2 }'
    find /var/lib -type f -path '*/cni/networks/demo/[0-9a-f]*[.:]*' -printf 'address %f\n' | sort
    find /run -type f -path '*/cnm/demo/*:*' -printf 'record  %f\n' | sort
}

mount -t tmpfs -o mode=0755 tmpfs /run
mount -t tmpfs -o mode=0755 tmpfs /var/lib
ip link set lo up

heading "The network's configuration"
echo "{$config"
echo "}"

heading "VERSION and STATUS: which versions of CNI, and is it ready?"
cni VERSION
quiet STATUS
echo "ready"

for container in one two; do
    heading "ADD: attach container \"$container\""
    ip netns add "$container"
    cni ADD "$container" | tee "/run/$container.json"
done

heading "On the host"
ip -brief address show dev demo0
state

heading "In container \"one\""
ip -n one -brief address show dev eth0
ip -n one -4 route
ip -n one -6 route

heading "They reach each other and the gateway, by IPv4 and IPv6"
for family in 4 6; do
    reach one "$(address two "$family")"
    reach two "$(address one "$family")"
    reach one "$(gateway one "$family")"
done

heading "CHECK: is everything as it was made?"
for container in one two; do
    quiet CHECK "$container" ", \"prevResult\": $(< "/run/$container.json")"
    echo "$container: yes"
done

heading "GC: container \"two\" is gone, and nobody called DEL"
ip netns delete two
quiet GC "" ', "cni.dev/valid-attachments": [{"containerID": "one", "ifname": "eth0"}]'
left=$(state)
echo "$left"
[[ $(wc -l <<< "$left") -eq 4 ]] || fail "GC should leave one port, two addresses, one record"
reach one "$(gateway one 4)"

heading "DEL: detach container \"one\"; twice, as runtimes do"
quiet DEL one ", \"prevResult\": $(< /run/one.json)"
quiet DEL one
left=$(state)
[[ -z $left ]] || fail "DEL left behind: $left"
! ip -n one link show dev eth0 > /run/eth0 2>&1 || fail "DEL left behind: $(< /run/eth0)"
echo "nothing is left but the bridge, which belongs to the network:"
ip -brief link
