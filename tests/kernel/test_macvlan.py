"""Macvlan networks: links, parents, traffic, drift, and what is left."""

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import cni
from tests.cni import (
    INVALID_CONFIG,
    NOT_AVAILABLE,
    PLUGIN_SPECIFIC,
    UNSUPPORTED_FIELD,
    Config,
    Endpoint,
)
from tests.iproute import HOST, Netns, Snapshot
from tests.kernel.test_announce import heard

MakeNetns = Callable[[], Netns]
MakeEndpoint = Callable[[], Endpoint]
TakeSnapshot = Callable[..., Snapshot]

MACS = ["02:42:0a:01:00:05", "02:42:0a:01:00:06"]
ROUTER = ["10.1.0.1", "fd00:1::1"]


@pytest.fixture
def plugin() -> str:
    """Always the macvlan plugin."""
    return "macvlan"


@pytest.fixture
def outside(netns: MakeNetns) -> Netns:
    """What is at the other end of the host's links up0 and up1: a switch with an address."""
    switch = netns()
    switch.ip("link", "add", "switch0", "up", "type", "bridge")
    for address in ("10.1.0.1/24", "fd00:1::1/64"):
        switch.ip("addr", "add", address, "dev", "switch0", "nodad")
    for number in (0, 1):
        port = f"port{number}"
        HOST.ip(
            "link", "add", f"up{number}", "up", "type", "veth", "peer", port, "netns", switch.name
        )
        switch.ip("link", "set", port, "master", "switch0", "up")
    # Which they do when the kernel has noted their carriers (net/core/link_watch.c).
    _until(lambda: all(_forwards(switch.link(f"port{number}")) for number in (0, 1)))
    return switch


def _forwards(port: dict[str, Any]) -> bool:
    return bool(port["linkinfo"]["info_slave_data"]["state"] == "forwarding")


@pytest.fixture
def config(config: Config, outside: Netns) -> Config:
    """A dual-stack network on up0; the addresses that the switch has are its gateways."""
    return config | {"master": "up0", "ipam": cni.host_local("10.1.0.0/24", "fd00:1::/64")}


@pytest.fixture
def layer2(config: Config) -> Config:
    """A network without addresses."""
    return cni.without(config, "ipam")


def _mode(netns: Netns) -> str:
    mode: str = netns.link("eth0")["linkinfo"]["info_data"]["mode"]
    return mode


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + cni.PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _refused(eth0: Endpoint, config: Config, code: int | range, *words: str) -> None:
    """Assert that ADD fails with these words, and what STATUS says of it."""
    error = eth0.call("ADD", config).error(code)
    text = error["msg"] + error.get("details", "")
    assert all(word in text for word in words), error
    assert "eth0" not in eth0.netns.links()
    assert not cni.leases()


# --- the link


def test_link(endpoint: MakeEndpoint, config: Config) -> None:
    """One link, in the container, on the parent; nothing new on the host."""
    before = HOST.links().keys()
    eth0 = endpoint()
    result = eth0.add(config)
    link = eth0.netns.link("eth0")
    assert link["linkinfo"]["info_kind"] == "macvlan"
    assert "UP" in link["flags"]
    assert link["link_index"] == HOST.link("up0")["ifindex"]
    assert _mode(eth0.netns) == "bridge"
    interface = {"name": "eth0", "mac": link["address"], "mtu": 1500, "sandbox": eth0.netns.path}
    assert result["interfaces"] == [interface]
    assert [ip["interface"] for ip in result["ips"]] == [0, 0]
    assert eth0.netns.addresses("eth0") == ["10.1.0.2/24", "fd00:1::2/64"]
    assert HOST.links().keys() == before


@pytest.mark.parametrize("key", ["mode", "macvlan_mode"])
@pytest.mark.parametrize("mode", ["bridge", "private", "vepa", "passthru"])
def test_mode(endpoint: MakeEndpoint, config: Config, key: str, mode: str) -> None:
    """Each mode, by the Go plugin's key and by Docker's."""
    eth0 = endpoint()
    result = eth0.add(config | {key: mode})
    assert _mode(eth0.netns) == mode
    eth0.check(config | {key: mode}, result).silent()


def test_parent_as_docker_spells_it(endpoint: MakeEndpoint, config: Config) -> None:
    """`parent` is the same as `master`, which may stand beside it."""
    one, other = endpoint(), endpoint()
    one.add(cni.without(config, "master") | {"parent": "up1"})
    other.add(config | {"parent": "up0", "mode": "vepa", "macvlan_mode": "vepa"})
    assert one.netns.link("eth0")["link_index"] == HOST.link("up1")["ifindex"]
    assert other.netns.link("eth0")["link_index"] == HOST.link("up0")["ifindex"]


@pytest.mark.parametrize("destination", ["default", "::/0"])
def test_parent_of_the_default_route(
    endpoint: MakeEndpoint, config: Config, destination: str
) -> None:
    """Without a name the parent is the link of the default route."""
    HOST.ip("route", "add", destination, "dev", "up1")
    eth0 = endpoint()
    eth0.add(cni.without(config, "master"))
    assert eth0.netns.link("eth0")["link_index"] == HOST.link("up1")["ifindex"]


@pytest.mark.parametrize(("members", "mtu"), [({}, 1400), ({"mtu": 1300}, 1300)], ids=str)
def test_mtu(endpoint: MakeEndpoint, config: Config, members: Config, mtu: int) -> None:
    """The MTU is the parent's, or the one asked for."""
    HOST.ip("link", "set", "up0", "mtu", "1400")
    eth0 = endpoint()
    result = eth0.add(config | members)
    assert eth0.netns.link("eth0")["mtu"] == result["interfaces"][0]["mtu"] == mtu


def test_queue_of_broadcasts(endpoint: MakeEndpoint, config: Config) -> None:
    """bcqueuelen is the length of the parent's queue."""
    eth0 = endpoint()
    eth0.add(config | {"bcqueuelen": 77})
    assert eth0.netns.link("eth0")["linkinfo"]["info_data"]["bcqueuelen"] == 77


@pytest.mark.parametrize(
    ("members", "args"),
    [
        ({"mac": MACS[0]}, None),
        ({"mac": MACS[1]}, f"MAC={MACS[0]}"),
        ({"args": {"cni": {"mac": MACS[0]}}}, f"MAC={MACS[1]}"),
        ({"args": {"cni": {"mac": MACS[1]}}, "runtimeConfig": {"mac": MACS[0]}}, None),
    ],
    ids=str,
)
def test_mac(endpoint: MakeEndpoint, config: Config, members: Config, args: str | None) -> None:
    """The MAC of runtimeConfig, or args.cni, or CNI_ARGS, or the configuration."""
    eth0 = endpoint()
    result = eth0.add(config | members, args=args)
    assert eth0.netns.link("eth0")["address"] == result["interfaces"][0]["mac"] == MACS[0]


def test_a_mac_twice(endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config) -> None:
    """Two links on a parent cannot have one MAC; after DEL another may have it."""
    one, other = endpoint(), endpoint()
    one.add(config | {"mac": MACS[0]})
    before = snapshot(other.netns)
    error = other.call("ADD", config | {"mac": MACS[0]}).error(PLUGIN_SPECIFIC)
    assert "up0" in error["msg"] and "MAC" in error["msg"]
    assert snapshot(other.netns) == before
    one.delete(config)
    other.add(config | {"mac": MACS[0]})


def test_passthru_has_the_mac_of_its_parent(endpoint: MakeEndpoint, config: Config) -> None:
    """In mode passthru container and parent are one station."""
    eth0 = endpoint()
    result = eth0.add(config | {"mode": "passthru"})
    assert result["interfaces"][0]["mac"] == HOST.link("up0")["address"]
    assert eth0.netns.reaches(ROUTER[0])


def test_link_in_container(endpoint: MakeEndpoint, config: Config) -> None:
    """With linkInContainer the parent is a link of the container."""
    eth0 = endpoint()
    eth0.netns.ip("link", "add", "inner0", "up", "type", "veth", "peer", "inner1")
    inside = config | {"master": "inner0", "linkInContainer": True}
    result = eth0.add(inside)
    link = eth0.netns.link("eth0")
    assert (link["link"], link["linkinfo"]["info_kind"]) == ("inner0", "macvlan")
    eth0.check(inside, result).silent()
    eth0.delete(inside)
    assert "eth0" not in eth0.netns.links()
    assert "no link" in eth0.call("ADD", inside | {"master": "absent"}).error()["msg"]


# --- parents that will not do


def test_parent_missing(endpoint: MakeEndpoint, config: Config) -> None:
    """A parent that is not there is named."""
    _refused(endpoint(), config | {"master": "up7"}, INVALID_CONFIG, "master", '"up7"')
    _refused(endpoint(), config | {"master": "up7.12"}, INVALID_CONFIG, '"up7.12"', 'nor "up7"')
    _refused(endpoint(), config | {"master": "up0.4095"}, INVALID_CONFIG, '"up0.4095"')


def test_no_default_route(endpoint: MakeEndpoint, config: Config) -> None:
    """Without a name there must be a default route."""
    nameless = cni.without(config, "master")
    _refused(endpoint(), nameless, INVALID_CONFIG, "master", "default route", "internal")


def test_parent_down(endpoint: MakeEndpoint, config: Config) -> None:
    """A parent that is down would carry nothing."""
    HOST.ip("link", "set", "up0", "down")
    _refused(endpoint(), config, NOT_AVAILABLE, '"up0" is down', "ip link set up0 up")


def test_parent_with_a_smaller_mtu(endpoint: MakeEndpoint, config: Config) -> None:
    """An MTU is at most the parent's."""
    _refused(endpoint(), config | {"mtu": 1501}, INVALID_CONFIG, "mtu: 1501", "1500", '"up0"')


def test_loopback_is_no_parent(endpoint: MakeEndpoint, config: Config) -> None:
    """Only Ethernet links are parents."""
    _refused(endpoint(), config | {"master": "lo"}, INVALID_CONFIG, '"lo" is no Ethernet link')


def test_parent_in_a_bridge(endpoint: MakeEndpoint, config: Config) -> None:
    """A port of a bridge carries no macvlan; the bridge itself does."""
    HOST.ip("link", "add", "bridge0", "up", "type", "bridge")
    HOST.ip("link", "set", "up0", "master", "bridge0")
    _refused(endpoint(), config, NOT_AVAILABLE, '"up0"', "a port of another link")
    eth0 = endpoint()
    eth0.add(config | {"master": "bridge0"})
    assert eth0.netns.reaches(ROUTER[0])


def test_parent_in_use_by_passthru(endpoint: MakeEndpoint, config: Config) -> None:
    """A parent has one link in mode passthru, or any number in other modes."""
    passthru = config | {"mode": "passthru"}
    one = endpoint()
    one.add(passthru)
    for wanted in (config, passthru):
        eth0 = endpoint()
        assert '"up0"' in eth0.call("ADD", wanted).error(NOT_AVAILABLE)["msg"]
    one.delete(passthru)
    endpoint().add(config)
    error = endpoint().call("ADD", passthru).error(NOT_AVAILABLE)
    assert "passthru needs it alone" in error["msg"]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"mode": "source"}, ["mode", '"source"', "passthru"]),
        ({"parent": "up1"}, ["parent", "up0", "up1"]),
        ({"mode": "vepa", "macvlan_mode": "bridge"}, ["macvlan_mode", "vepa", "bridge"]),
        ({"internal": True}, ["internal", "master"]),
        ({"mode": "passthru", "mac": MACS[0]}, ["passthru", "MAC"]),
        ({"mtu": 67}, ["mtu", "67"]),
        ({"mac": "01:00:5e:00:00:01"}, ["mac", "01:00:5e:00:00:01"]),
        ({"master": "a/b"}, ["master", "a/b"]),
    ],
    ids=str,
)
def test_contradictions(
    endpoint: MakeEndpoint, config: Config, members: Config, words: list[str]
) -> None:
    """Options that make no sense, alone or together, are named with their values."""
    _refused(endpoint(), config | members, INVALID_CONFIG, *words)


def test_no_published_ports(endpoint: MakeEndpoint, config: Config) -> None:
    """Ports cannot be published: the host is not between container and network."""
    ports = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
    wanted = config | {"runtimeConfig": ports}
    _refused(endpoint(), wanted, UNSUPPORTED_FIELD, "portMappings")


@pytest.mark.parametrize("change", ["missing", "down", "small"])
def test_status(call: Callable[..., Any], config: Config, change: str) -> None:
    """STATUS fails where ADD would, and else it does not."""
    call("STATUS", config).silent()
    if change == "missing":
        HOST.ip("link", "delete", "up0")
    elif change == "down":
        HOST.ip("link", "set", "up0", "down")
    else:
        HOST.ip("link", "set", "up0", "mtu", "1280")
    assert "up0" in call("STATUS", config | {"mtu": 1400}).error(NOT_AVAILABLE)["msg"]


# --- traffic


def test_two_parents(endpoint: MakeEndpoint, config: Config) -> None:
    """Containers on two links reach each other through the physical side, as stations of it."""
    one, other = endpoint(), endpoint()
    results = [one.add(config), other.add(config | {"master": "up1"})]
    for near, result in ((other, results[0]), (one, results[1])):
        for address in (*ROUTER, *cni.addresses(result)):
            assert near.netns.reaches(address)
    macs = {result["interfaces"][0]["mac"] for result in results}
    macs |= {HOST.link(name)["address"] for name in ("up0", "up1")}
    assert len(macs) == 4


def test_the_switch_sees_their_macs(endpoint: MakeEndpoint, outside: Netns, config: Config) -> None:
    """The physical side knows each container by its own MAC, on the port of its parent."""
    eth0 = endpoint()
    mac = eth0.add(config | {"master": "up1"})["interfaces"][0]["mac"]
    assert eth0.netns.reaches(ROUTER[0])
    output = outside.run(["bridge", "fdb", "show", "br", "switch0"])
    assert f"{mac} dev port1 master switch0" in output


@pytest.mark.parametrize(("mode", "reached"), [("bridge", True), ("private", False)])
def test_one_parent(endpoint: MakeEndpoint, config: Config, mode: str, reached: bool) -> None:
    """Containers on one parent reach each other in mode bridge, and not in mode private."""
    one, other = endpoint(), endpoint()
    one.add(config | {"mode": mode})
    for address in cni.addresses(other.add(config | {"mode": mode})):
        assert one.netns.reaches(address) is reached


def test_the_host_does_not_reach_them(endpoint: MakeEndpoint, config: Config) -> None:
    """As macvlan is; a macvlan link of the host's own is its way, as docs/macvlan.md has it."""
    HOST.ip("addr", "add", "10.1.0.200/24", "dev", "up0")
    eth0 = endpoint()
    (address, _) = cni.addresses(eth0.add(config))
    assert not HOST.reaches(address, seconds=1)
    HOST.ip("link", "add", "host0", "link", "up0", "type", "macvlan", "mode", "bridge")
    HOST.ip("addr", "add", "10.1.0.201/32", "dev", "host0")
    HOST.ip("link", "set", "host0", "up")
    HOST.ip("route", "add", f"{address}/32", "dev", "host0", "src", "10.1.0.201")
    assert HOST.reaches(address)


def test_layer_2_only(endpoint: MakeEndpoint, layer2: Config) -> None:
    """Without ipam the link is up and has no addresses."""
    eth0 = endpoint()
    result = eth0.add(layer2)
    assert not result.get("ips")
    assert eth0.netns.addresses("eth0") == []
    assert "UP" in eth0.netns.link("eth0")["flags"]
    eth0.check(layer2, result).silent()
    eth0.delete(layer2)
    assert "eth0" not in eth0.netns.links()


def test_announced(endpoint: MakeEndpoint, outside: Netns, config: Config) -> None:
    """A gratuitous ARP and an unsolicited neighbour advertisement reach the physical side."""
    with outside.entered():
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with listener:
        listener.bind(("switch0", 3))
        mac = endpoint().add(config)["interfaces"][0]["mac"]
        wanted = {"10.1.0.2", "fd00:1::2"}
        assert heard(listener, wanted) == dict.fromkeys(wanted, mac)


def test_carrier_follows(endpoint: MakeEndpoint, outside: Netns, config: Config) -> None:
    """The container sees whether the parent is connected."""
    eth0 = endpoint()
    eth0.add(config)
    _until(lambda: "LOWER_UP" in eth0.netns.link("eth0")["flags"])
    outside.ip("link", "set", "port0", "down")
    _until(lambda: "LOWER_UP" not in eth0.netns.link("eth0")["flags"])
    outside.ip("link", "set", "port0", "up")
    _until(lambda: "LOWER_UP" in eth0.netns.link("eth0")["flags"])


# --- internal networks


def test_internal(endpoint: MakeEndpoint, config: Config) -> None:
    """An internal network has a parent of its own, without way out, that goes with the last."""
    internal = cni.without(config, "master") | {"internal": True}
    before = HOST.links().keys()
    one, other = endpoint(), endpoint()
    one.add(internal)
    (parent,) = HOST.links().keys() - before
    result = other.add(internal)
    assert HOST.links().keys() - before == {parent}
    assert HOST.addresses(parent) == []
    for address in cni.addresses(result):
        assert one.netns.reaches(address)
    assert not one.netns.reaches(ROUTER[0], seconds=1)
    other.check(internal, result).silent()
    one.delete(internal)
    assert parent in HOST.links()
    assert "eth0" in other.netns.links()
    other.delete(internal)
    assert HOST.links().keys() == before


def test_internal_networks_are_apart(endpoint: MakeEndpoint, config: Config) -> None:
    """Each has a parent of its own."""
    blue = cni.without(config, "master") | {"internal": True}
    green = blue | {"name": "green"}
    one, other = endpoint(), endpoint()
    one.add(blue)
    other.netns.ip("link", "set", "lo", "up")
    green["ipam"] = cni.host_local("10.1.0.128/25")
    (address,) = cni.addresses(other.add(green))
    assert not one.netns.reaches(address, seconds=1)


# --- what is left


def test_delete(endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config) -> None:
    """DEL leaves nothing, however often it is called."""
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    result = eth0.add(config)
    eth0.delete(config, result)
    assert snapshot(eth0.netns) == before
    eth0.delete(config, result)
    eth0.add(config)


@pytest.mark.parametrize("lost", ["records", "netns", "parent", "CNI_NETNS"])
def test_delete_without(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config, lost: str
) -> None:
    """DEL works without the record, the namespace or the parent."""
    eth0 = endpoint()
    before = snapshot()
    eth0.add(config)
    if lost == "records":
        (record,) = (each for each in Path("/run/cnm/blue").iterdir() if ":" in each.name)
        record.unlink()
    elif lost == "netns":
        HOST.run(["ip", "netns", "delete", eth0.netns.name])
        _until(lambda: HOST.link("up0")["promiscuity"] == 0)  # the kernel deletes it later
    elif lost == "parent":
        HOST.ip("link", "delete", "up0")
        before.links[""].pop("up0")
        before.addresses[""].pop("up0")
    eth0.delete(config, env_drop=("CNI_NETNS",) if lost == "CNI_NETNS" else ())
    assert snapshot() == before
    if lost != "netns":
        assert "eth0" not in eth0.netns.links()


def test_delete_spares_other_links(endpoint: MakeEndpoint, config: Config) -> None:
    """A link of another kind under that name is not ours."""
    eth0 = endpoint()
    eth0.netns.ip("link", "add", "eth0", "type", "bridge")
    eth0.delete(config)
    assert "eth0" in eth0.netns.links()


def test_gc(endpoint: MakeEndpoint, config: Config) -> None:
    """GC removes what is not valid, its parent if we made it, and nothing else."""
    internal = cni.without(config, "master") | {"internal": True}
    before = HOST.links().keys()
    valid, stale = endpoint(), endpoint()
    result = valid.add(internal)
    stale.add(internal)
    valid.call("GC", cni.collected(internal, valid)).silent()
    assert "eth0" not in stale.netns.links()
    valid.check(internal, result).silent()
    assert sorted(cni.leases()) == sorted(cni.addresses(result))
    valid.call("GC", cni.collected(internal)).silent()
    assert HOST.links().keys() == before
    assert not cni.leases()


@pytest.mark.parametrize("milliseconds", range(0, 16, 2))
def test_killed(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config, milliseconds: int
) -> None:
    """DEL repairs whatever a killed ADD left, and so does the next ADD."""
    internal = cni.without(config, "master") | {"internal": True}
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    eth0.kill("ADD", internal, milliseconds / 1000)
    eth0.delete(internal)
    assert snapshot(eth0.netns) == before
    eth0.kill("ADD", internal, milliseconds / 1000)
    if "eth0" not in eth0.netns.links():
        eth0.add(internal)
    eth0.delete(internal)
    assert snapshot(eth0.netns) == before


FAILING = """#!/bin/sh
ip -n "${CNI_NETNS##*/}" -o link show "$CNI_IFNAME" > '%s'
echo '{"code": 142, "msg": "no address today"}'
[ "$CNI_COMMAND" = DEL ]
"""


def test_failed_ipam_leaves_no_link(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config, tmp_path: Path
) -> None:
    """A delegate is asked with the link there, which goes where it fails."""
    (tmp_path / "failing").write_text(FAILING % (tmp_path / "seen"))
    (tmp_path / "failing").chmod(0o755)
    internal = cni.without(config, "master") | {"internal": True, "ipam": {"type": "failing"}}
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    eth0.call("ADD", internal, path=str(tmp_path)).error(142)
    assert "eth0@" in (tmp_path / "seen").read_text()
    assert snapshot(eth0.netns) == before


# --- CHECK


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("link set eth0 type macvlan mode private", ["mode", "bridge", "private"]),
        ("link set eth0 mtu 1400", ["MTU", "1500", "1400"]),
        ("link set eth0 address 02:00:00:00:00:07", ["MAC", "02:00:00:00:00:07"]),
        ("addr del 10.1.0.2/24 dev eth0", ["addresses", "10.1.0.2/24"]),
        ("route del 10.8.0.0/16", ["routes", "10.8.0.0/16"]),
        ("link del eth0", ["eth0", "no such link"]),
    ],
)
def test_drift(endpoint: MakeEndpoint, config: Config, change: str, words: list[str]) -> None:
    """CHECK says what was expected and what was found."""
    config["ipam"]["routes"] = [{"dst": "10.8.0.0/16"}]
    eth0 = endpoint()
    result = eth0.add(config)
    eth0.check(config, result).silent()
    eth0.netns.ip(*change.split())
    message = eth0.check(config, result).error(PLUGIN_SPECIFIC)["msg"]
    assert all(word in message for word in words), message


def test_drift_of_the_parent(endpoint: MakeEndpoint, config: Config) -> None:
    """CHECK sees a parent that is down, gone, or another than configured."""
    eth0 = endpoint()
    result = eth0.add(config)
    message = eth0.check(config | {"master": "up1"}, result).error(PLUGIN_SPECIFIC)["msg"]
    assert "parent" in message and "up1" in message
    HOST.ip("link", "set", "up0", "down")
    assert '"up0" is down' in eth0.check(config, result).error(PLUGIN_SPECIFIC)["msg"]
    HOST.ip("link", "delete", "up0")
    assert "no such link" in eth0.check(config, result).error(PLUGIN_SPECIFIC)["msg"]
