"""Names, paths, documents and planted files that would lead a careless plugin astray.

Whatever comes in, the answer is a result or an error object with the right code, and what is
not ours is as before: files, links, addresses, routes, rules and settings.
"""

import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import cni
from tests.cni import (
    DECODING_FAILURE,
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    INVALID_NETNS,
    IO_FAILURE,
    Config,
    Endpoint,
    Outcome,
)
from tests.iproute import HOST, Netns, run

MakeEndpoint = Callable[[], Endpoint]
Call = Callable[..., Outcome]
Foreign = dict[str, Any]

COMMANDS = ("ADD", "CHECK", "DEL", "GC", "STATUS")
DRIFTED, DELEGATE_FAILED, DEFECT = 105, 106, 999
RECORDS = Path("/run/cnm")
OURS = "cnm"  # how tables of ours begin
# Settings that tell of the kernel's work; forwarding, which ADD switches on, and what the kernel
# changes with it (inet_forward_change).
_RESTLESS = ("nf_conntrack_count", "tcp_fastopen_key", "stable_secret")
_RESTLESS += ("forward", "accept_redirects", "disable_lro")
_OF_A_LINK = re.compile(r"\.(conf|neigh)\.")
_OF_A_LASTING_LINK = re.compile(r"\.(conf|neigh)\.(all|default|lo|theirs.)\.")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A directory of somebody else's, whose names could be ours."""
    directory = tmp_path / "victim"
    directory.mkdir()
    names = ("passwd", "c1:eth0", "10.1.0.2", "lock", ".lock", "last_reserved_ip.0", "4-a01")
    for name in names:
        (directory / name).write_text(f"{name} is theirs\n")
        (directory / name).chmod(0o640)
    (directory / "below").mkdir()
    (directory / "below" / "10.1.0.3").touch()
    (directory / "link").symlink_to("passwd")
    os.mkfifo(directory / "fifo")
    return directory


@pytest.fixture
def foreign(node: None, victim: Path, netns: Callable[[], Netns]) -> Iterator[Foreign]:
    """What is not ours, on the host and in another container; the same at the test's end."""
    bystander = netns()
    end = ["name", "eth0", "netns", bystander.name]
    HOST.ip("link", "add", "theirs0", "type", "veth", "peer", *end)
    HOST.ip("link", "add", "theirs1", "type", "bridge")
    HOST.ip("link", "set", "theirs0", "master", "theirs1")
    for where, name in ((HOST, "theirs1"), (bystander, "eth0")):
        where.ip("link", "set", name, "up")
        where.ip("addr", "add", f"192.0.2.{len(name)}/24", "dev", name)
        where.ip("route", "add", "198.51.100.0/24", "dev", name)
        _await_no_carrier(where, name)
    run("nft", "add table ip theirs")
    run("nft", "add chain ip theirs x { type filter hook forward priority 5; }")
    run("nft", 'add rule ip theirs x ip saddr 192.0.2.9 counter drop comment "theirs"')
    before = _picture(victim, bystander)
    yield before
    after = _picture(victim, bystander)
    # Another process may have had the kernel load a module, whose settings are new then.
    after["settings"] = {name: after["settings"].get(name) for name in before["settings"]}
    for what in before:
        assert after[what] == before[what], what


def _await_no_carrier(where: Netns, name: str) -> None:
    """Wait until the kernel has noted that a link has none (net/core/link_watch.c)."""
    deadline = time.monotonic() + cni.PATIENCE
    while "NO-CARRIER" not in where.link(name)["flags"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _picture(victim: Path, bystander: Netns) -> Foreign:
    tables = run("nft", "--stateless", "list", "tables").splitlines()
    return {
        "files": dict(_files(victim)),
        "host": _kernel(HOST, "theirs"),
        "bystander": _kernel(bystander, ""),
        "rules": [
            run("nft", "--stateless", "list", "table", *each.split()[1:])
            for each in tables
            if not each.split()[-1].startswith(OURS)
        ],
        "settings": _settings(),
    }


def _files(root: Path) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Each file with its kind and mode, when it changed, and what it is."""
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        what = os.readlink(path) if path.is_symlink() else ""
        if path.is_file() and not path.is_symlink():
            what = hashlib.sha256(path.read_bytes()).hexdigest()
        yield str(path), (status.st_mode, status.st_mtime_ns, status.st_uid, status.st_ino, what)


def _kernel(where: Netns, prefix: str) -> list[Any]:
    """The links of that prefix with their addresses and routes."""
    kept = ("ifindex", "ifname", "flags", "mtu", "master", "address", "ifalias", "promiscuity")
    found: list[Any] = []
    for name, link in sorted(where.links().items()):
        if name.startswith(prefix):
            found += [{key: link.get(key) for key in kept}, sorted(where.addresses(name))]
            found += [where.query("route", "show", "dev", name, "table", "all")]
    return found


def _settings() -> dict[str, str]:
    """The kernel's, but for those of links that come and go."""
    pattern = r"^net\.|^kernel\.core|^vm\."
    lines = run("sysctl", "--ignore", "-a", "--pattern", pattern).splitlines()
    kept = [
        line.partition(" = ")
        for line in lines
        if not any(each in line for each in _RESTLESS)
        and (not _OF_A_LINK.search(line) or _OF_A_LASTING_LINK.search(line))
    ]
    return {name: value for name, _, value in kept}


def _state() -> list[Path]:
    """What plugins have written down."""
    return [*RECORDS.iterdir(), *(cni.LEASES.iterdir() if cni.LEASES.exists() else ())]


def _answer(outcome: Outcome, *codes: int) -> Any:
    """The error object, of these codes where some are given, or None; never a defect of ours."""
    if outcome.code == 0:
        assert not codes, outcome
        assert not outcome.stdout or isinstance(outcome.json, dict)
        return None
    error = outcome.error()
    assert error["code"] in codes if codes else error["code"] != DEFECT, outcome
    return error


# --- names

IDS = [
    "../../victim/passwd",
    "/etc/passwd",
    "a/../../b",
    ".",
    "..",
    "-rf",
    "a\nb",
    "a b",
    "a" * 4096,
    "ключ",
    "\U0001f642",
    "\udcff",
    "a\udc80",
    "$(id)",
    "a;b",
    "a:b",
    "%n",
    "\x1b[2J",
]
IFNAMES = [
    "../../x",
    "eth0/../x",
    ".",
    "..",
    "a" * 16,
    "a" * 4096,
    "\U0001f642" * 4,
    "eth0\n",
    "a b",
    "a:b",
    "\udcff\udcfe",
    "eth\udc80",
    "eth%d",
    "%n",
    "all",
]


@pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL"])
def test_names(foreign: Foreign, endpoint: MakeEndpoint, config: Config, command: str) -> None:
    """Error 4 names the variable, for what is neither a file's name nor a link's."""
    eth0 = endpoint()
    wrong = [({"container_id": each}, "CNI_CONTAINERID") for each in IDS]
    wrong += [({"ifname": each}, "CNI_IFNAME") for each in IFNAMES]
    for changes, variable in wrong:
        error = _answer(eth0.call(command, config, **changes), INVALID_ENVIRONMENT)
        assert variable in error["msg"]
    assert not _state()


def test_unusual_interface_names(foreign: Foreign, endpoint: MakeEndpoint, config: Config) -> None:
    """A name that the kernel takes is that link's, from ADD to DEL, or it is refused."""
    masked = config | {"ipMasq": True}
    for name in ("-eth0", "\U0001f642", "é", "$(id)", "a;b", "'\"", "\\"):
        eth0 = endpoint().other(name)
        outcome = eth0.call("ADD", masked)
        if _answer(outcome) is None:
            assert name in eth0.netns.links()
            eth0.check(masked, outcome.result()).silent()
        eth0.delete(masked)
        assert set(eth0.netns.links()) == {"lo"}
        assert not cni.leases()
        assert not list(RECORDS.rglob("*:*"))


@pytest.mark.parametrize("command", COMMANDS)
def test_network_names(
    foreign: Foreign, endpoint: MakeEndpoint, config: Config, command: str
) -> None:
    """Error 7 for the name of a network that could not be a directory's."""
    eth0 = endpoint()
    names = ["../victim", "..", ".cnm", "-x", "a/b", "\U0001f642", "a\0b", "\ufeffblue", "n" * 241]
    for name in (*names, "n" * 4096, {"x": 1}, 2**70):
        error = _answer(eth0.call(command, config | {"name": name}), INVALID_CONFIG)
        assert "name" in error["msg"]
    assert not _state()


def test_longest_names(foreign: Foreign, endpoint: MakeEndpoint, config: Config) -> None:
    """Names that fit into a file's name but not into a comment or an alias are shortened there."""
    long = config | {"name": "n" * 240, "ipMasq": True, "macspoofchk": True}
    long |= {"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}}
    eth0 = endpoint()
    changes = {"container_id": "c" * 200, "ifname": "i" * 15}
    result = eth0.call("ADD", long, **changes).result()
    eth0.check(long, result, **changes).silent()
    eth0.call("DEL", long, **changes).silent()
    assert not cni.leases("n" * 240)


LABELS = [
    "K8S_POD_NAME=../../../victim/passwd",
    "K8S_POD_NAME=\n{}\n",
    'K8S_POD_NAME="}, {"code": 0}',
    "K8S_POD_NAME=$(id);K8S_POD_NAMESPACE=`id`",
    "K8S_POD_NAME=\udcff\udcfe",
    "K8S_POD_NAME=" + "x" * 100_000,
    ";".join(f"K8S_{number}=x" for number in range(10_000)),
]


def test_labels(foreign: Foreign, endpoint: MakeEndpoint, config: Config) -> None:
    """What a container's author may choose goes into CNI_ARGS, and nowhere from there."""
    eth0 = endpoint()
    for labels in LABELS:
        ignored = f"IgnoreUnknown=1;{labels}"
        result = eth0.add(config, args=ignored)
        assert "K8S" not in json.dumps(result)
        assert not any("K8S" in path.read_text() for path in RECORDS.rglob("*:*"))
        eth0.delete(config, args=ignored)
        error = _answer(eth0.call("ADD", config, args=labels), INVALID_ENVIRONMENT)
        assert "CNI_ARGS" in error["msg"]
        eth0.delete(config, args=labels)


# --- programs


def test_delegates(
    foreign: Foreign, tmp_path: Path, endpoint: MakeEndpoint, config: Config
) -> None:
    """Only a regular file in a directory of CNI_PATH is run, whatever the plugin's name."""
    directory = tmp_path / "plugins"
    directory.mkdir()
    os.mkfifo(directory / "fifo")
    (directory / "loop").symlink_to("loop")
    (directory / "below").mkdir()
    (directory / "text").write_text("no program")
    path = f"relative::{directory / 'text'}:{directory}:/dev/null:\udcff:{'x' * 5000}"
    eth0 = endpoint()
    for kind in ("../../bin/true", "/bin/true", "..", ".", "a\0b", "fifo", "below", "loop"):
        delegated = config | {"ipam": {"type": kind}, "isGateway": False}
        _answer(eth0.call("ADD", delegated, path=path), INVALID_CONFIG)
        assert set(eth0.netns.links()) == {"lo"}
    delegated = config | {"ipam": {"type": "text"}, "isGateway": False}
    _answer(eth0.call("ADD", delegated, path=path), DELEGATE_FAILED)
    assert set(eth0.netns.links()) == {"lo"}


@pytest.mark.parametrize(
    "answer",
    [
        '{"code": 0, "msg": "x"}',
        '{"code": -1}',
        '{"code": 1e300}',
        '{"code": 4294967296}',
    ],
)
def test_codes_of_delegates(
    foreign: Foreign, tmp_path: Path, endpoint: MakeEndpoint, config: Config, answer: str
) -> None:
    """An error object whose code no runtime could read is none."""
    (tmp_path / "odd").write_text(f"#!/bin/sh\necho '{answer}'\nexit 1\n")
    (tmp_path / "odd").chmod(0o755)
    delegated = config | {"ipam": {"type": "odd"}, "isGateway": False}
    _answer(endpoint().call("ADD", delegated, path=str(tmp_path)), DELEGATE_FAILED)


# --- network namespaces


def test_paths_of_namespaces(
    foreign: Foreign, tmp_path: Path, endpoint: MakeEndpoint, config: Config
) -> None:
    """Error 8 for what is no network namespace, without a wait; DEL takes it for gone."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "to-a-fifo").symlink_to("fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("absent")
    (tmp_path / "file").touch()
    names = ("fifo", "to-a-fifo", "loop", "dangling", "file", "a\nb", "\udcff", "x" * 4000)
    paths = [f"{tmp_path}/{name}" for name in names]
    paths += ["/dev/zero", "/dev/full", "/dev/null", "/proc/self/ns/mnt", "/proc/1/mem"]
    eth0 = endpoint()
    for path in (*paths, "/run/netns", "/", "-", "../x", "x" * 5000):
        for command in ("ADD", "CHECK"):
            previous = {"prevResult": {"cniVersion": "1.1.0"}}
            _answer(eth0.call(command, config | previous, netns=path), INVALID_NETNS)
        eth0.call("DEL", config, netns=path).silent()
    assert not cni.leases()


def test_a_path_of_any_letters(foreign: Foreign, endpoint: MakeEndpoint, config: Config) -> None:
    """A namespace may be bound to a path of any letters; the result has it as it came."""
    eth0 = endpoint()
    path = Path("/run/netns/\U0001f642 \n\"'")
    path.touch()
    run("mount", "--bind", eth0.netns.path, str(path))
    try:
        result = eth0.add(config, netns=str(path))
        assert str(path) in [each.get("sandbox") for each in result["interfaces"]]
        eth0.check(config, result, netns=str(path)).silent()
        eth0.delete(config, netns=str(path))
    finally:
        run("umount", "--lazy", str(path))  # a process that waits for the kernel may have it open
        path.unlink()


@contextmanager
def _rebound(path: str, to: str) -> Iterator[None]:
    """Have a path mean another namespace; the first one lives on without it."""
    with open(path, "rb"):
        run("umount", "--lazy", path)
        run("mount", "--bind", to, path)
        yield


@pytest.mark.parametrize("command", ["DEL", "GC"])
def test_a_recycled_namespace(
    foreign: Foreign, endpoint: MakeEndpoint, call: Call, config: Config, command: str
) -> None:
    """A path that means another container's namespace by now: that one's interface stays."""
    eth0, other = endpoint(), endpoint()
    result = eth0.add(config)
    other.netns.ip("link", "add", "eth0", "type", "veth", "peer", "name", "peer0")
    with _rebound(eth0.netns.path, other.netns.path):
        eth0.check(config, result).error(cni.PLUGIN_SPECIFIC)
        if command == "DEL":
            eth0.delete(config, result)
        else:
            call("GC", cni.collected(config)).silent()
    assert set(other.netns.links()) == {"lo", "eth0", "peer0"}
    assert not cni.leases()
    assert not list(RECORDS.rglob("*:*"))
    assert not HOST.ports("blue0")


def test_a_path_that_means_the_host(
    foreign: Foreign, endpoint: MakeEndpoint, call: Call, config: Config
) -> None:
    """Error 8 where the path means the host's namespace by now; GC undoes the ADD."""
    eth0 = endpoint()
    result = eth0.add(config)
    HOST.ip("link", "add", "eth0", "type", "veth", "peer", "name", "peer0")
    links = set(HOST.links())
    with _rebound(eth0.netns.path, "/proc/self/ns/net"):
        for command in ("ADD", "DEL"):
            _answer(eth0.call(command, config), INVALID_NETNS)
        eth0.check(config, result).error()
        assert set(HOST.links()) == links
        call("GC", cni.collected(config)).silent()
    assert "eth0" in HOST.links()
    assert not HOST.ports("blue0")
    assert not cni.leases()


# --- documents

DOCUMENTS = [
    (b"", DECODING_FAILURE),
    (b" \n\t ", DECODING_FAILURE),
    (b"[" * 100_000 + b"]" * 100_000, DECODING_FAILURE),
    (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, DECODING_FAILURE),
    (b'{"cniVersion": "1.1.0", "name": "blue", "mtu": 1e400}', DECODING_FAILURE),
    (b'{"name": "\xff\xfe"}', DECODING_FAILURE),
    (b'{"name": "\xed\xa0\x80"}', DECODING_FAILURE),
    (b'\xef\xbb\xbf{"cniVersion": "1.1.0", "name": "blue"}', DECODING_FAILURE),
    ('{"cniVersion": "1.1.0", "name": "blue"}'.encode("utf-16"), DECODING_FAILURE),
    (b'{"cniVersion": "1.1.0", "name": "blue", "name": "../x"}', INVALID_CONFIG),
    (b'{"cniVersion": "1.1.0", "name": "blue"}\0', DECODING_FAILURE),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_documents(foreign: Foreign, endpoint: MakeEndpoint, command: str) -> None:
    """What is no configuration has an error of a line, in a moment."""
    eth0 = endpoint()
    for text, code in DOCUMENTS:
        error = _answer(eth0.call(command, text), code)
        assert len(json.dumps(error)) < 1000
    assert not _state()


def test_a_document_without_end(foreign: Foreign, endpoint: MakeEndpoint) -> None:
    """Error 5 for 100 MB, most of which is never read."""
    _answer(endpoint().call("ADD", b'{"x": "' + b"y" * (100 << 20) + b'"}'), IO_FAILURE)
    assert not _state()


def test_numbers(foreign: Foreign, endpoint: MakeEndpoint, config: Config) -> None:
    """Error 7 for a number beyond what the key can be."""
    eth0 = endpoint()
    for place in ("mtu", "vlan", "ipam.quarantineSeconds", "ipam.gcGraceSeconds"):
        for number in (2**70, -(2**70), 1e308, 10**300, 0.1):
            wrong = cni.changed(config, place, number)
            error = _answer(eth0.call("ADD", wrong), INVALID_CONFIG)
            assert place.rpartition(".")[2] in error["msg"]
    assert not _state()


PREVIOUS: dict[str, Config] = {
    "index": {"ips": [{"address": "10.1.0.2/24", "interface": 2**70}]},
    "before": {"ips": [{"address": "10.1.0.2/24", "interface": -1}]},
    "route": {"routes": [{"dst": "0.0.0.0/0", "table": 2**70, "mtu": -1, "scope": 10**300}]},
    "types": {"interfaces": [5], "ips": {}, "routes": "x", "dns": []},
    "prefix": {"ips": [{"address": "10.1.0.2/" + "9" * 5000}]},
    "names": {"interfaces": [{"name": "../../x"}, {"name": "eth0", "sandbox": "/dev/zero"}]},
    "many": {"interfaces": [{"name": f"x{number}"} for number in range(10_000)]},
}


def test_previous_results(
    foreign: Foreign, executable: Callable[[str], Path], endpoint: MakeEndpoint, config: Config
) -> None:
    """A prevResult that makes no sense is at most an error, and no way to anything."""
    eth0 = endpoint()
    eth0.add(config)
    for members in PREVIOUS.values():
        previous = {"cniVersion": "1.1.0"} | members
        _answer(eth0.check(config, previous))
        chained = {"cniVersion": "1.1.0", "name": "red", "type": "portmap", "prevResult": previous}
        chained |= {"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80}]}}
        for command in ("ADD", "CHECK", "DEL"):
            _answer(cni.call(executable("portmap"), command, chained, **eth0.variables))
    for name in ("route", "types", "prefix"):
        previous = {"cniVersion": "1.1.0"} | PREVIOUS[name]
        _answer(eth0.check(config, previous), DECODING_FAILURE, DRIFTED)
    eth0.delete(config)


PORTS: list[Any] = [
    [{"hostPort": 2**70, "containerPort": 80}],
    [{"hostPort": -1, "containerPort": 80}],
    [{"hostPort": 80, "containerPort": 80, "hostIP": "0.0.0.0/0"}],
    [{"hostPort": 80, "containerPort": 80, "protocol": "tcp; flush ruleset"}],
    [{"hostPort": 80, "containerPort": 80}] * 2,
    {"hostPort": 80},
    [[]],
]


def test_ports(foreign: Foreign, endpoint: MakeEndpoint, config: Config) -> None:
    """Error 7 for a published port that is none."""
    eth0 = endpoint()
    for ports in PORTS:
        runtime = {"runtimeConfig": {"portMappings": ports}}
        _answer(eth0.call("ADD", config | runtime), INVALID_CONFIG)
    assert not _state()


# --- planted files

PLACES = [
    "/run/cnm/blue",
    "/run/cnm/blue/.lock",
    "/run/cnm/blue/ID:eth0",
    "/run/cnm/blue/.ID:eth0.new",
    "/var/lib/cni/networks/blue",
    "/var/lib/cni/networks/blue/lock",
    "/var/lib/cni/networks/blue/10.1.0.2",
    "/var/lib/cni/networks/blue/last_reserved_ip.0",
    "/var/lib/cni/networks/.cnm",
    "/var/lib/cni/networks/.cnm/.blue.claim",
    "/var/lib/cni/networks/.cnm/blue",
    "/var/lib/cni/networks/.cnm/blue/owners",
    "/var/lib/cni/networks/.cnm/blue/owners/ID:eth0",
    "/var/lib/cni/networks/.cnm/blue/used",
    "/var/lib/cni/networks/.cnm/blue/used/4-a01",
]


def _plant(path: Path, kind: str, victim: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    run("rm", "-rf", str(path))
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(victim if kind == "link to a directory" else victim / "passwd")


@pytest.mark.parametrize(
    ("kind", "when"),
    [
        ("link to a directory", "before"),
        ("FIFO", "before"),
        ("link to a directory", "after"),
        ("link to a file", "after"),
        ("FIFO", "after"),
        ("directory", "after"),
    ],
)
def test_planted_files(
    foreign: Foreign, victim: Path, endpoint: MakeEndpoint, config: Config, kind: str, when: str
) -> None:
    """What stands in the place of state, before ADD or after, is not waited for nor followed.

    When it is removed, all goes on.
    """
    eth0 = endpoint()
    for place in PLACES:
        path = Path(place.replace("ID", eth0.container_id))
        result: Config = {"cniVersion": "1.1.0"}
        if when == "after":
            result = eth0.add(config)
        _plant(path, kind, victim)
        if when == "before":
            outcome = eth0.call("ADD", config)
            if _answer(outcome) is None:
                result = outcome.json
        _answer(eth0.check(config, result))
        _answer(eth0.call("GC", cni.collected(config, eth0)))
        _answer(eth0.call("DEL", config | {"prevResult": result}))
        assert dict(_files(victim)) == foreign["files"], place
        run("rm", "-rf", str(path))
        eth0.delete(config)
        assert "eth0" not in eth0.netns.links(), place
        again = eth0.add(config)
        eth0.check(config, again).silent()
        eth0.delete(config)
        run("rm", "-rf", str(RECORDS / "blue"), str(cni.LEASES))


@pytest.mark.parametrize("kind", ["link to a file", "FIFO", "directory"])
def test_planted_logs(
    foreign: Foreign,
    tmp_path: Path,
    victim: Path,
    endpoint: MakeEndpoint,
    config: Config,
    kind: str,
) -> None:
    """A log that is none costs the log, not the operation."""
    _plant(tmp_path / "log", kind, victim)
    logged = config | {"logFile": str(tmp_path / "log")}
    eth0 = endpoint()
    outcome = eth0.call("ADD", logged)
    outcome.result()
    assert b"log" in outcome.stderr
    assert eth0.call("DEL", logged).code == 0


def test_links_to_state_directories(
    foreign: Foreign, tmp_path: Path, endpoint: MakeEndpoint, config: Config
) -> None:
    """The directories of the configuration may be links: whoever writes one is believed."""
    (tmp_path / "state").mkdir()
    (tmp_path / "records").symlink_to("state")
    (tmp_path / "data").symlink_to("state")
    moved = cni.changed(config, "ipam.dataDir", f"{tmp_path}/data")
    moved = cni.changed(moved, "stateDir", f"{tmp_path}/records") | {"name": "red"}
    moved["ipam"]["dataDir"] = f"{tmp_path}/data/addresses"
    eth0 = endpoint()
    result = eth0.add(moved)
    eth0.check(moved, result).silent()
    eth0.delete(moved)


def test_closed_streams(
    foreign: Foreign, binary: Path, endpoint: MakeEndpoint, config: Config
) -> None:
    """Without stdout and stderr no answer is written into a file that got their number."""
    eth0 = endpoint()
    environment = cni.environment("ADD", **eth0.variables)
    closed = ["sh", "-c", 'exec "$0" >&- 2>&-', str(binary)]
    for text in (cni.encoded(config), b"{"):
        subprocess.run(closed, input=text, env=environment, check=False, timeout=cni.PATIENCE)
    for root in (RECORDS, cni.LEASES):
        written = [path for path in root.rglob("*") if path.is_file()]
        assert not any(b"cniVersion" in path.read_bytes() for path in written)
    eth0.delete(config)
    assert not cni.leases()
