"""Malformed configurations, environments and state: the right error, and nothing changed.

An error of a configuration names the key and has the value. The plugin-specific codes are
this project's own, as its documentation lists them.
"""

import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cnm_core.cni import pools
from tests import cni
from tests.cni import (
    DECODING_FAILURE,
    INCOMPATIBLE_VERSION,
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    INVALID_NETNS,
    Config,
    Endpoint,
    Outcome,
)
from tests.iproute import HOST, Snapshot, run

MakeEndpoint = Callable[[], Endpoint]
TakeSnapshot = Callable[..., Snapshot]

STATE_FAILURE = 101
POOL_EXHAUSTED = 102
INTERFACE_EXISTS = 104

SUBNET = "10.1.0.0/24"
FLAGS = ["isGateway", "isDefaultGateway", "forceAddress", "hairpinMode", "promiscMode"]
FLAGS += ["portIsolation", "enabledad", "disableContainerInterface", "ipMasq"]
WRONG_TYPES: list[tuple[str, Any]] = [
    ("name", 5),
    ("name", ["blue"]),
    ("bridge", 5),
    ("bridge", ["blue0"]),
    *[(flag, value) for flag in FLAGS for value in ("true", 1)],
    ("mtu", "1500"),
    ("mtu", 1500.5),
    ("mtu", True),
    ("mtu", [1500]),
    ("vlan", "100"),
    ("vlan", True),
    ("vlanTrunk", 5),
    ("vlanTrunk", {}),
    ("vlanTrunk", [5]),
    ("vlanTrunk", [{"id": "5"}]),
    ("preserveDefaultVlan", 1),
    ("ipam", "host-local"),
    ("ipam", []),
    ("ipam.type", 5),
    ("ipam.type", {}),
    ("ipam.subnet", 5),
    ("ipam.rangeStart", 5),
    ("ipam.rangeEnd", []),
    ("ipam.gateway", {}),
    ("ipam.ranges", "10.1.0.0/24"),
    ("ipam.ranges", {}),
    ("ipam.ranges[0]", {"subnet": SUBNET}),
    ("ipam.ranges[0][0]", SUBNET),
    ("ipam.ranges[0][0].subnet", 5),
    ("ipam.ranges[0][0].rangeStart", 5),
    ("ipam.ranges[0][0].rangeEnd", 5),
    ("ipam.ranges[0][0].gateway", 5),
    ("ipam.ranges[0][0].ipRange", 5),
    ("ipam.ranges[0][0].exclude", "10.1.0.5"),
    ("ipam.ranges[0][0].exclude", [5]),
    ("ipam.ranges[0][0].auxAddresses", ["10.1.0.5"]),
    ("ipam.ranges[0][0].auxAddresses.router", 5),
    ("ipam.allocation", True),
    ("ipam.quarantineSeconds", "60"),
    ("ipam.gcGraceSeconds", [60]),
    ("ipam.routes", "0.0.0.0/0"),
    ("ipam.routes", {"dst": "0.0.0.0/0"}),
    ("ipam.routes", ["0.0.0.0/0"]),
    ("ipam.routes", [{"dst": 5}]),
    ("ipam.routes", [{"dst": SUBNET, "gw": 5}]),
    ("ipam.routes", [{"dst": SUBNET, "mtu": "1400"}]),
    ("ipam.routes", [{"dst": SUBNET, "advmss": "1400"}]),
    ("ipam.routes", [{"dst": SUBNET, "priority": "7"}]),
    ("ipam.routes", [{"dst": SUBNET, "table": "main"}]),
    ("ipam.routes", [{"dst": SUBNET, "scope": "link"}]),
    ("ipam.dataDir", 5),
    ("ipam.resolvConf", 5),
    ("dns", []),
    ("dns.nameservers", "10.1.0.1"),
    ("dns.nameservers", [5]),
    ("dns.domain", 5),
    ("dns.search", "x.test"),
    ("dns.options", [5]),
    ("args", "x"),
    ("args.cni", []),
    ("args.cni.mac", 5),
    ("runtimeConfig", "x"),
    ("runtimeConfig.mac", 5),
    ("runtimeConfig.ips", "10.1.0.5"),
    ("runtimeConfig.ips", [5]),
    ("runtimeConfig.ipRanges", [SUBNET]),
    ("args.cni.ips", 5),
    ("prevResult", "x"),
    ("stateDir", 5),
]
WRONG_VALUES: list[tuple[str, Any]] = [
    ("bridge", "a" * 16),
    ("bridge", "a/b"),
    ("bridge", ".."),
    ("bridge", "a b"),
    ("mtu", -1),
    ("mtu", 67),
    ("mtu", 65536),
    ("mtu", 10**20),
    ("mtu", "Auto"),
    ("vlan", -1),
    ("vlan", 4095),
    ("vlanTrunk", [{"id": 0}]),
    ("vlanTrunk", [{"id": 4095}]),
    ("vlanTrunk", [{"minID": 5}]),
    ("vlanTrunk", [{"maxID": 5}]),
    ("vlanTrunk", [{"maxID": 5, "minID": 0}]),
    ("vlanTrunk", [{"minID": 5, "maxID": 4095}]),
    ("vlanTrunk", [{"minID": 6, "maxID": 5}]),
    ("ipam.subnet", "10.2.0.0"),
    ("ipam.subnet", "x"),
    ("ipam.ranges[0][0].subnet", "10.1.0.0/33"),
    ("ipam.ranges[0][0].subnet", "10.1.0.0/-1"),
    ("ipam.ranges[0][0].subnet", "10.1.0.5/24"),
    ("ipam.ranges[0][0].subnet", "010.1.0.0/24"),
    ("ipam.ranges[0][0].subnet", "fd00::/129"),
    ("ipam.ranges[0][0].subnet", "fd00::%eth0/64"),
    ("ipam.ranges[0][0].rangeStart", "x"),
    ("ipam.ranges[0][0].rangeStart", "10.2.0.5"),
    ("ipam.ranges[0][0].rangeStart", "fd00::5"),
    ("ipam.ranges[0][0].rangeEnd", "10.1.1.0"),
    ("ipam.ranges[0][0].gateway", "10.1.1.1"),
    ("ipam.ranges[0][0].gateway", "fd00::1"),
    ("ipam.ranges[0][0].gateway", "10.1.0.1/24"),
    ("ipam.ranges[0][0].ipRange", "10.1.0.5/28"),
    ("ipam.ranges[0][0].ipRange", "10.1.0.0/23"),
    ("ipam.ranges[0][0].ipRange", "fd00::/64"),
    ("ipam.ranges[0][0].exclude", ["x"]),
    ("ipam.ranges[0][0].exclude", ["10.1.0.9-10.1.0.5"]),
    ("ipam.ranges[0][0].exclude", ["10.1.0.5/28"]),
    ("ipam.ranges[0][0].exclude", ["10.2.0.5"]),
    ("ipam.ranges[0][0].auxAddresses.router", "x"),
    ("ipam.ranges[0][0].auxAddresses.router", "fd00::1"),
    ("ipam.exclude", ["10.1.0.9"]),
    ("ipam.allocation", "best-fit"),
    ("ipam.quarantineSeconds", -1),
    ("ipam.quarantineSeconds", 365 * 86400 + 1),
    ("ipam.gcGraceSeconds", 1.5),
    ("runtimeConfig.ips", ["x"]),
    ("runtimeConfig.ips", ["10.1.0.5/33"]),
    ("runtimeConfig.ips", ["10.9.0.5"]),
    ("runtimeConfig.ips", ["10.1.0.1"]),
    ("runtimeConfig.ips", ["10.1.0.5", "10.1.0.6"]),
    ("runtimeConfig.ipRanges", [[{"subnet": "10.1.0.5/25"}]]),
    ("args.cni.ips", ["fd00::5"]),
    ("ipam.routes", [{"dst": "x"}]),
    ("ipam.routes", [{"dst": "10.8.0.0"}]),
    ("ipam.routes", [{"dst": SUBNET, "gw": "10.1.0.1/24"}]),
    ("ipam.routes", [{"dst": SUBNET, "mtu": -1}]),
    ("ipam.routes", [{"dst": SUBNET, "table": 2**32}]),
    ("ipam.routes", [{"dst": SUBNET, "scope": 256}]),
    ("ipam.dataDir", "relative/path"),
    ("ipam.dataDir", "/var/lib/../etc"),
    ("ipam.resolvConf", "/nonexistent/resolv.conf"),
    ("dns.nameservers", ["ns.test"]),
    ("args.cni.mac", "x"),
    ("runtimeConfig.mac", "02:42:0a:01:00"),
    ("runtimeConfig.mac", "01:00:5e:00:00:01"),
    ("runtimeConfig.mac", "00:00:00:00:00:00"),
    ("stateDir", "relative/path"),
]
MISSING = [
    ("vlanTrunk", [{}]),
    ("ipam.ranges", []),
    ("ipam.ranges", [[]]),
    ("ipam.ranges", [[{}]]),
    ("ipam.routes", [{}]),
]


class Refusal:
    """A first ADD on an empty host, that must fail and leave the host as it is."""

    def __init__(self, endpoint: MakeEndpoint, snapshot: TakeSnapshot) -> None:
        self.endpoint = endpoint()
        self._snapshot = snapshot

    def of(self, config: Config | bytes, code: int, **changes: Any) -> str:
        """The message of the failed ADD."""
        before = self._snapshot(self.endpoint.netns)
        error = self.endpoint.call("ADD", config, **changes).error(code)
        assert self._snapshot(self.endpoint.netns) == before
        return str(error["msg"])


@pytest.fixture
def refusal(endpoint: MakeEndpoint, snapshot: TakeSnapshot) -> Refusal:
    """ADD that is refused."""
    return Refusal(endpoint, snapshot)


def _key_of(place: str, value: Any) -> str:
    """The innermost key that is wrong: in the place itself, or in a list of objects there."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return str(list(value[0])[-1])
    return [part for part in place.replace("[0]", "").split(".") if part][-1]


def _texts_of(value: Any) -> list[str]:
    """What the message may have for the value: its JSON, or that of its innermost part."""
    texts = [json.dumps(value), json.dumps(value, separators=(",", ":"))]
    if isinstance(value, str):
        texts.append(value)
    if isinstance(value, list) and value:
        inner = value[0]
        texts += _texts_of(list(inner.values())[-1] if isinstance(inner, dict) else inner)
    return texts


@pytest.mark.parametrize(("place", "value"), WRONG_TYPES + WRONG_VALUES, ids=str)
def test_a_wrong_value(refusal: Refusal, config: Config, place: str, value: Any) -> None:
    """Error 7 for a configuration that does not validate; here with key and value."""
    message = refusal.of(cni.changed(config, place, value), INVALID_CONFIG)
    assert _key_of(place, value) in message
    assert any(text in message for text in _texts_of(value)), message


@pytest.mark.parametrize(("place", "value"), MISSING, ids=str)
def test_a_missing_value(refusal: Refusal, config: Config, place: str, value: Any) -> None:
    """Error 7 for a configuration that lacks what it needs."""
    message = refusal.of(cni.changed(config, place, value), INVALID_CONFIG)
    assert place.rpartition(".")[2] in message


def test_every_ipam_key_missing(refusal: Refusal, config: Config) -> None:
    """Host-local needs a subnet or ranges."""
    assert "ranges" in refusal.of(config | {"ipam": {"type": "host-local"}}, INVALID_CONFIG)


@pytest.mark.parametrize(
    ("members", "keys"),
    [
        ({"hairpinMode": True, "promiscMode": True}, ["hairpinMode", "promiscMode"]),
        ({"disableContainerInterface": True}, ["disableContainerInterface", "ipam"]),
    ],
    ids=str,
)
def test_keys_that_exclude_each_other(
    refusal: Refusal, config: Config, members: Config, keys: list[str]
) -> None:
    """Error 7 where two values cannot go together, with both keys."""
    message = refusal.of(config | members, INVALID_CONFIG)
    assert all(key in message for key in keys)


@pytest.mark.parametrize(
    "ranges",
    [
        [[{"subnet": SUBNET}], [{"subnet": SUBNET}]],
        [[{"subnet": "10.1.0.0/16"}], [{"subnet": "10.1.0.0/24"}]],
        [[{"subnet": SUBNET}, {"subnet": "10.1.0.0/25"}]],
        [
            [
                {"subnet": SUBNET, "rangeStart": "10.1.0.10", "rangeEnd": "10.1.0.20"},
                {"subnet": SUBNET, "rangeStart": "10.1.0.20", "rangeEnd": "10.1.0.30"},
            ]
        ],
    ],
    ids=["sets", "subnets", "one set", "one address"],
)
def test_overlapping_ranges(refusal: Refusal, config: Config, ranges: Any) -> None:
    """Error 7 for ranges that have addresses in common; the message has both."""
    message = refusal.of(cni.changed(config, "ipam.ranges", ranges), INVALID_CONFIG)
    assert "ranges" in message
    assert message.count("10.1.0.") >= 2


def test_families_mixed_in_one_set(refusal: Refusal, config: Config) -> None:
    """Error 7 for a range set that has both families."""
    mixed = [[{"subnet": SUBNET}, {"subnet": "fd00::/64"}]]
    assert "ranges" in refusal.of(cni.changed(config, "ipam.ranges", mixed), INVALID_CONFIG)


@pytest.mark.parametrize(
    ("start", "end"),
    [("10.1.0.9", "10.1.0.8"), ("10.1.0.1", "10.1.0.1"), ("10.1.0.255", "10.1.0.255")],
    ids=["backwards", "gateway only", "broadcast only"],
)
def test_a_range_without_addresses(refusal: Refusal, config: Config, start: str, end: str) -> None:
    """Error 7 for a range that has nothing to give."""
    empty = [[{"subnet": SUBNET, "rangeStart": start, "rangeEnd": end}]]
    message = refusal.of(cni.changed(config, "ipam.ranges", empty), INVALID_CONFIG)
    assert "ranges" in message
    assert start in message


@pytest.mark.parametrize(
    "text",
    [
        b"\0" * (1 << 20),
        b"[" * (1 << 20),
        b'{"a":' * (1 << 18),
        b'"' + b"\\u0041" * (1 << 18),
        random.Random(1).randbytes(1 << 20),
        b"9" * (1 << 20),
        b" " * (1 << 20),
    ],
    ids=["zeros", "brackets", "objects", "escapes", "random", "digits", "spaces"],
)
@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_a_megabyte_of_garbage(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, command: str, text: bytes
) -> None:
    """Error 6 for what cannot be decoded, however much of it there is."""
    before = snapshot()
    error = endpoint().call(command, text).error(DECODING_FAILURE)
    assert len(error["msg"]) < 1000
    assert snapshot() == before


@pytest.mark.parametrize(
    "text",
    [
        b'{"name": "blue", "name"',
        b"{'name': 'blue'}",
        b'{"name": "blue",}',
        b'{"name": NaN}',
        b'{"name": "bl\nue"}',
        b'{"name": "blue"} x',
        b'{"a": 01}',
        b'{"a": .5}',
        b'{"a": "\\x"}',
        b'{"a": "\\ud8"}',
        b"\xef\xbb\xbf{",
        b'{"a": "\xc3\x28"}',
    ],
)
def test_invalid_json(refusal: Refusal, text: bytes) -> None:
    """Error 6 for what is not JSON."""
    refusal.of(text, DECODING_FAILURE)


@pytest.mark.parametrize("text", ['{"a": "\\ud83d\\ude00"}', '{"a": "\\ud83d"}', '{"a": 1e400}'])
def test_unusual_json(endpoint: MakeEndpoint, config: Config, text: str) -> None:
    """What is valid JSON but odd is at worst an error object."""
    merged = json.dumps(config)[:-1] + ", " + text[1:]
    outcome = endpoint().call("ADD", merged.encode())
    if outcome.code:
        outcome.error(DECODING_FAILURE)


def test_a_large_configuration(endpoint: MakeEndpoint, config: Config) -> None:
    """Size alone is no error."""
    endpoint().add(config | {"vendor": ["x" * 1024] * 1024})


def test_an_unknown_version(refusal: Refusal, config: Config) -> None:
    """Error 1 for a cniVersion that is not supported."""
    assert "version" in refusal.of(config | {"cniVersion": "9.9.9"}, INCOMPATIBLE_VERSION)


def test_an_interface_name_taken(refusal: Refusal, config: Config) -> None:
    """An error where the name is taken in the container."""
    refusal.endpoint.netns.ip("link", "add", "eth0", "type", "veth", "peer", "name", "peer0")
    assert '"eth0"' in refusal.of(config, INTERFACE_EXISTS)


@pytest.mark.parametrize(
    "kind",
    [["type", "veth", "peer", "name", "peer0"], ["type", "vxlan", "id", "1", "dstport", "4789"]],
    ids=["veth", "vxlan"],
)
def test_the_bridges_name_taken(refusal: Refusal, config: Config, kind: list[str]) -> None:
    """Error 7 where the name of the bridge is another link's; the message has its kind."""
    HOST.ip("link", "add", "blue0", *kind)
    message = refusal.of(config, INVALID_CONFIG)
    assert "blue0" in message
    assert kind[1] in message


def test_the_bridge_named_loopback(refusal: Refusal, config: Config) -> None:
    """Error 7 where the name of the bridge is a device's that has no kind."""
    assert '"lo"' in refusal.of(config | {"bridge": "lo"}, INVALID_CONFIG)


@pytest.mark.parametrize("kind", pools.NETWORK_PLUGINS)
def test_a_network_plugin_for_ipam(refusal: Refusal, config: Config, kind: str) -> None:
    """Error 7: a network plugin would run itself for addresses, which would do so in turn."""
    wrong = config | {"ipam": {"type": kind}}
    assert f'"{kind}"' in refusal.of(wrong, INVALID_CONFIG)
    refusal.endpoint.delete(wrong)
    refusal.endpoint.call("STATUS", wrong).error(INVALID_CONFIG)
    refusal.endpoint.call("GC", wrong | {"cni.dev/valid-attachments": []}).silent()


@pytest.mark.parametrize(
    "path",
    ["/etc/hostname", "/", "/dev/null", "/nonexistent", "/proc/1/ns/mnt", "relative", "/a\nb"],
)
def test_a_path_that_is_no_namespace(refusal: Refusal, config: Config, path: str) -> None:
    """Reference library: error 8 for a CNI_NETNS that is no network namespace."""
    assert path in refusal.of(config, INVALID_NETNS, netns=path)


def test_a_fifo_for_a_namespace(refusal: Refusal, config: Config, tmp_path: Path) -> None:
    """A FIFO does not block."""
    os.mkfifo(tmp_path / "fifo")
    refusal.of(config, INVALID_NETNS, netns=str(tmp_path / "fifo"))
    refusal.endpoint.delete(config, netns=str(tmp_path / "fifo"))


def test_mac_addresses_by_args(refusal: Refusal, config: Config) -> None:
    """Error 4 for a MAC of CNI_ARGS that is none, with the value."""
    message = refusal.of(config, INVALID_ENVIRONMENT, args="MAC=02:42:zz:00:00:01")
    assert "MAC" in message
    assert "02:42:zz:00:00:01" in message


def test_bytes_that_are_no_text(refusal: Refusal, config: Config) -> None:
    """Variables may hold any bytes."""
    surrogate = os.fsdecode(b"\xff\xfe")
    refusal.of(config, INVALID_ENVIRONMENT, container_id=surrogate)
    refusal.of(config, INVALID_ENVIRONMENT, ifname=surrogate * 8)
    refusal.of(config, INVALID_NETNS, netns=f"/{surrogate}")
    refusal.of(config, INVALID_ENVIRONMENT, args=surrogate)


def test_a_container_id_too_long_for_a_file(refusal: Refusal, config: Config) -> None:
    """Error 4 for a container ID that no file can be named after."""
    message = refusal.of(config, INVALID_ENVIRONMENT, container_id="a" * 300)
    assert "CNI_CONTAINERID" in message


@contextmanager
def _tmpfs(path: Path, *options: str) -> Iterator[Path]:
    path.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(path))
    try:
        yield path
    finally:
        run("umount", str(path))


def _fill(directory: Path) -> None:
    with (directory / "filling").open("wb", buffering=0) as filling:
        try:
            while filling.write(bytes(4096)):
                pass
        except OSError:
            pass


STATE_KEYS = [("ipam.dataDir", "data"), ("stateDir", "records")]


@pytest.mark.parametrize(("place", "name"), STATE_KEYS)
def test_a_read_only_state_directory(
    refusal: Refusal, config: Config, tmp_path: Path, place: str, name: str
) -> None:
    """Error 101 with the path where state cannot be written; what was done is undone."""
    with _tmpfs(tmp_path / name, "ro") as directory:
        message = refusal.of(cni.changed(config, place, str(directory)), STATE_FAILURE)
        assert str(directory) in message
        assert "ead-only" in message


@pytest.mark.parametrize(("place", "name"), STATE_KEYS)
@pytest.mark.parametrize("limit", ["nr_inodes=1", "nr_inodes=2", "nr_inodes=4", "nr_inodes=6"])
def test_a_state_directory_without_inodes(
    refusal: Refusal, config: Config, tmp_path: Path, place: str, name: str, limit: str
) -> None:
    """Error 101 with the path where no file can be made."""
    with _tmpfs(tmp_path / name, limit) as directory:
        outcome = refusal.endpoint.call("ADD", cni.changed(config, place, str(directory)))
        if outcome.code:
            assert str(directory) in outcome.error(STATE_FAILURE)["msg"]
            assert not cni.leases("blue", directory)
            assert "eth0" not in refusal.endpoint.netns.links()


@pytest.mark.parametrize(("place", "name"), STATE_KEYS)
def test_a_full_state_directory(
    endpoint: MakeEndpoint,
    snapshot: TakeSnapshot,
    config: Config,
    tmp_path: Path,
    place: str,
    name: str,
) -> None:
    """Error 101 with the path where nothing more can be written; DEL works nevertheless."""
    with _tmpfs(tmp_path / name, "size=64k") as directory:
        moved = cni.changed(config, place, str(directory))
        first, second = endpoint(), endpoint()
        first.add(moved)
        _fill(directory)
        before = snapshot(second.netns, directories=(directory,))
        error = second.call("ADD", moved).error(STATE_FAILURE)
        assert str(directory) in error["msg"]
        assert snapshot(second.netns, directories=(directory,)) == before
        first.delete(moved)
        assert not cni.leases("blue", directory)
        assert not cni.leases()


@pytest.mark.parametrize("place", ["ipam.dataDir", "stateDir"])
def test_a_file_for_a_state_directory(
    refusal: Refusal, config: Config, tmp_path: Path, place: str
) -> None:
    """Error 101 with the path where a directory should be."""
    (tmp_path / "file").touch()
    wrong = cni.changed(config, place, str(tmp_path / "file"))
    assert str(tmp_path / "file") in refusal.of(wrong, STATE_FAILURE)


@pytest.mark.parametrize("place", ["ipam.dataDir", "stateDir"])
def test_a_directory_of_too_long_a_name(
    refusal: Refusal, config: Config, tmp_path: Path, place: str
) -> None:
    """Error 101 with the path; DEL has nothing to complain of, as nothing can be there."""
    wrong = cni.changed(config, place, f"{tmp_path}/{'x' * 300}")
    assert str(tmp_path) in refusal.of(wrong, STATE_FAILURE)
    refusal.endpoint.delete(wrong)


def test_delete_with_a_file_for_a_state_directory(
    endpoint: MakeEndpoint, config: Config, tmp_path: Path
) -> None:
    """What cannot be recorded anywhere has not been added: DEL has nothing to complain of."""
    (tmp_path / "file").touch()
    for place in ("ipam.dataDir", "stateDir"):
        endpoint().delete(cni.changed(config, place, str(tmp_path / "file")))


CORRUPTIONS = {
    "empty": b"",
    "white space": b"\r\n \n",
    "binary": bytes(range(256)),
    "half": b"c1\r",
    "path": b"../../etc\r\n../../passwd",
    "long": b"x" * 100000,
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corrupted_address_file(endpoint: MakeEndpoint, config: Config, corruption: str) -> None:
    """An address whose file names nobody is not given away until GC frees it."""
    directory = cni.LEASES / "blue"
    directory.mkdir(parents=True)
    (directory / "10.1.0.2").write_bytes(CORRUPTIONS[corruption])
    eth0 = endpoint()
    result = eth0.add(config)
    assert cni.addresses(result) == ["10.1.0.3"]
    eth0.check(config, result).silent()
    eth0.call("GC", cni.collected(config, eth0)).silent()
    assert list(cni.leases()) == ["10.1.0.3"]
    eth0.delete(config)
    assert not cni.leases()


def test_a_directory_for_an_address_file(
    endpoint: MakeEndpoint, call: Callable[..., Outcome], config: Config
) -> None:
    """Whatever an address file is, the other addresses can be used."""
    (cni.LEASES / "blue" / "10.1.0.2").mkdir(parents=True)
    eth0 = endpoint()
    result = eth0.add(config)
    assert cni.addresses(result) == ["10.1.0.3"]
    eth0.check(config, result).silent()
    call("STATUS", config).silent()
    eth0.delete(config)


def test_corrupted_files_exhaust_the_pool(refusal: Refusal, config: Config) -> None:
    """Error 102 says that it is damage that has the addresses."""
    small = [[{"subnet": "10.1.0.0/30"}]]
    directory = cni.LEASES / "blue"
    directory.mkdir(parents=True)
    (directory / "10.1.0.2").touch()
    message = refusal.of(cni.changed(config, "ipam.ranges", small), POOL_EXHAUSTED)
    assert "10.1.0.2" in message
    assert "blue" in message


@pytest.mark.parametrize("content", [b"", b"x", b"10.99.0.1", b"\xff" * 100, b"fd00::1"])
def test_a_corrupted_search_position(
    endpoint: MakeEndpoint, config: Config, content: bytes
) -> None:
    """The search for an address begins at the first where its position makes no sense."""
    directory = cni.LEASES / "blue"
    directory.mkdir(parents=True)
    (directory / "last_reserved_ip.0").write_bytes(content)
    assert cni.addresses(endpoint().add(config)) == ["10.1.0.2"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"format": 99}', b"\xff" * 100])
def test_a_corrupted_record(
    endpoint: MakeEndpoint, call: Callable[..., Outcome], config: Config, content: bytes
) -> None:
    """A record that makes no sense is an error of CHECK; DEL, GC and ADD do without it."""
    for remove in ("DEL", "GC"):
        eth0 = endpoint()
        result = eth0.add(config)
        (record,) = Path("/run/cnm").rglob(f"{eth0.container_id}*")
        record.write_bytes(content)
        assert str(record) in eth0.check(config, result).error(STATE_FAILURE)["msg"]
        if remove == "DEL":
            eth0.delete(config, result)
        else:
            call("GC", cni.collected(config)).silent()
        assert not cni.leases()
        assert not record.exists()
        eth0.netns.ip("link", "add", "free", "type", "bridge")


def test_a_foreign_file_among_the_addresses(endpoint: MakeEndpoint, config: Config) -> None:
    """What is no address is left alone."""
    directory = cni.LEASES / "blue"
    (directory / "subdirectory").mkdir(parents=True)
    (directory / "README").write_text("do not touch")
    os.symlink("/nonexistent", directory / "link")
    eth0 = endpoint()
    eth0.add(config)
    eth0.call("GC", cni.collected(config)).silent()
    assert (directory / "README").read_text() == "do not touch"
    assert (directory / "subdirectory").is_dir()
    assert (directory / "link").is_symlink()
