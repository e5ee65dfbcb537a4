"""A node with many containers."""

import hashlib
import re
from pathlib import Path
from time import sleep

import networks
from peers import OURS, Attachment, Peer, container_id
from trial import Place, Trial
from world import Host, WorldError

from cases.addresses import address, use_addresses
from cases.firewall import chaining, masquerading, publishing
from cases.registry import case

CONTAINERS = 1000  # a bridge has 1023 ports at most (BR_PORT_BITS, net/bridge/br_private.h)
FIRST = 100  # number of the first of them, which tells its host ports
SETTLING = 3  # seconds; new links have something to say by multicast


@case("bridge", "host-local", "portmap")
def crowd(trial: Trial) -> None:
    """masq, ports and portmap where 0 and 1000 containers are attached.

    Each of these is masqueraded and has two published ports. Ours are attached with our own
    bridge. Of the others, whose thousand calls take minutes, one is attached with the peer's
    own plugins, and its links, addresses and iptables rules are multiplied.
    """
    alone, crowded = trial.place("0", "alone"), trial.place(str(CONTAINERS), "crowded")
    for peer in trial.peers:
        _fill(trial, peer, crowded)
    sleep(SETTLING)
    timings = {"masq": masquerading, "ports": publishing, "portmap": chaining}
    for name, steps_for in timings.items():
        trial.attach(
            lambda peer, data, steps_for=steps_for: steps_for(peer, data, **_keys(data)),
            rounds=max(1, trial.rounds // 2),
            places=[
                Place(f"crowd_{place.row}_{name}", place.hosts, place.data)
                for place in (alone, crowded)
            ],
            only="portmap" if name == "portmap" else "",
        )


def _keys(data: Path) -> networks.Config:
    """What keeps the records of each place apart: peers' by the name, ours by the directory."""
    return {"name": f"net-{data.name}", "stateDir": f"{data}/.state"}


def _fill(trial: Trial, peer: Peer, place: Place) -> None:
    """Attach the containers; their interfaces are in one namespace, and quiet: no IPv6."""
    crowd = trial.world.host(f"crowd{peer.index}")
    with crowd:
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    host, data = place.hosts[peer], place.data[peer]
    by_plugins = CONTAINERS if peer.label == OURS else 1
    for number in range(by_plugins):
        attachment = Attachment(container_id(FIRST + number), crowd.path, f"eth{number}")
        steps = publishing(peer, data, number=FIRST + number, **_keys(data))
        if trial.chain(peer, "ADD", steps, attachment, host) is None:
            raise WorldError(f"{peer.label} cannot attach container {number} of the crowd")
    if by_plugins < CONTAINERS:
        _multiply_links(peer, host, crowd)
        _multiply_rules(peer, host)
        use_addresses(peer, data / _keys(data)["name"], CONTAINERS)


def _multiply_links(peer: Peer, host: Host, crowd: Host) -> None:
    pairs, ends = [], []
    for number in range(1, CONTAINERS):
        pairs.append(
            f"link add port{number} up master {networks.bridge_name(peer)} type veth"
            f" peer name eth{number} netns {crowd.name}"
        )
        ends += [
            f"addr add {address(peer, number)}/16 dev eth{number}",
            f"link set eth{number} up",
        ]
    host.run(["ip", "-batch", "-"], stdin="\n".join(pairs))
    crowd.run(["ip", "-batch", "-"], stdin="\n".join(ends))


def _dports(number: int) -> list[str]:
    """Host ports of a container as rules have them."""
    published = networks.published(FIRST + number)["runtimeConfig"]["portMappings"]
    ports = [port["hostPort"] for port in published]
    return [f"{option} {port}" for port in ports for option in ("--dport", "--dports")]


def _multiply_rules(peer: Peer, host: Host) -> None:
    """Write each chain and rule of the first container again for each other one.

    They are known by the chains' names, which end in a hash of the container's ID.
    """
    saved = host.run(["iptables-save", "-t", "nat"])
    chain = re.search(r"^:CNI-DN-(\w+) ", saved, re.M)
    if chain is None:
        raise WorldError(f"{peer.label} has no chain CNI-DN-… in {saved}")
    first, digest = container_id(FIRST), chain[1]
    model = "\n".join(line for line in saved.splitlines() if digest in line)
    chains, rules = [], []
    for number in range(1, CONTAINERS):
        replacements = {
            digest: hashlib.sha512(str(number).encode()).hexdigest()[: len(digest)],
            first: container_id(FIRST + number),
            f"{address(peer, 0)}/": f"{address(peer, number)}/",
            f"{address(peer, 0)}:": f"{address(peer, number)}:",
            **dict(zip(_dports(0), _dports(number), strict=True)),
        }
        text = model
        for old, new in replacements.items():
            text = text.replace(old, new)
        for line in text.splitlines():
            (chains if line.startswith(":") else rules).append(line)
    restored = ["*nat", *chains, *rules, "COMMIT", ""]
    host.run(["iptables-restore", "--noflush"], stdin="\n".join(restored))
