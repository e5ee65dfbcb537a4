"""State files that somebody else put there: links, FIFOs, numbers and names beyond all bounds."""

import os
from pathlib import Path

import pytest

from cnm_core import json
from cnm_core.cli import overlay_file
from cnm_core.errors import StateFailure
from cnm_core.inet import Address, parse_address, parse_ip
from cnm_core.model import Addressing, Endpoint, EndpointKey, Lease, PublishedPort, Sandbox
from cnm_core.store import files
from cnm_core.store.allocations import Allocations
from cnm_core.store.cluster import Cluster
from cnm_core.store.endpoints import EndpointStore
from cnm_core.store.entries import SharedNetwork, Subnet
from cnm_core.store.membership import Membership
from cnm_core.store.remote import RemoteStore
from cnm_core.store.resting import Resting
from cnm_core.store.shared import Put
from cnm_core.store.shared_files import FileStore
from tests.iproute import run

KEY = EndpointKey("c1", "eth0")
IP = parse_ip("10.1.0.2")
ENDPOINT = Endpoint(
    network="blue",
    key=KEY,
    sandbox=Sandbox("/run/netns/x", "b:1"),
    host_link="veth1",
    parents=("eth1.5",),
    ports=(PublishedPort(6, 80, 8080),),
    addressing=Addressing((Lease(Address(IP, 24)),)),
)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A directory that is none of ours, with names in it that could be."""
    directory = tmp_path / "victim"
    directory.mkdir()
    for name in ("c1:eth0", ".c1:eth0.new", "10.1.0.2", "4-a01", "passwd"):
        (directory / name).write_text("theirs")
    return directory


def _content(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_a_link_for_a_directory_of_records(tmp_path: Path, victim: Path) -> None:
    """A record is neither written to where a link leads, nor removed there."""
    before = _content(victim)
    (tmp_path / "blue").symlink_to(victim)
    store = EndpointStore(str(tmp_path))
    for step in (
        lambda: store.save(ENDPOINT),
        lambda: store.lock("blue"),
        lambda: store.remove("blue", KEY),
        lambda: store.remove_half_written("blue", 0),
    ):
        with pytest.raises(StateFailure, match=str(tmp_path / "blue")):
            step()
    assert _content(victim) == before


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "FIFO"])
@pytest.mark.parametrize("name", ["c1:eth0", ".c1:eth0.new"])
def test_a_link_for_a_record(tmp_path: Path, victim: Path, kind: str, name: str) -> None:
    """A record takes the place of what stands there; nobody waits for a FIFO's other end."""
    before = _content(victim)
    place = tmp_path / "blue" / name
    place.parent.mkdir()
    if kind == "symbolic link":
        place.symlink_to(victim / "passwd")
    elif kind == "hard link":
        place.hardlink_to(victim / "passwd")
    else:
        os.mkfifo(place)
    store = EndpointStore(str(tmp_path))
    if name == "c1:eth0":
        with pytest.raises(StateFailure):
            store.load("blue", KEY)
    store.save(ENDPOINT)
    assert store.load("blue", KEY) == ENDPOINT
    assert _content(victim) == before
    store.remove("blue", KEY)
    assert _content(victim) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"hostLink": "x" * 16},
        {"hostLink": "a/b"},
        {"hostLink": "\0"},
        {"parents": [".."]},
        {"pool": {"driver": "host-local", "dataDir": "../../etc"}},
        {"ports": [{"protocol": 256, "hostPort": 80, "containerPort": 80, "hostIP": None}]},
        {"ports": [{"protocol": 6, "hostPort": 65536, "containerPort": 80, "hostIP": None}]},
        {"ports": [{"protocol": 6, "hostPort": 80, "containerPort": -1, "hostIP": None}]},
        {"ports": [{"protocol": 6, "hostPort": 80.5, "containerPort": 80, "hostIP": None}]},
    ],
    ids=str,
)
def test_a_record_that_the_kernel_would_refuse(tmp_path: Path, changes: dict[str, object]) -> None:
    """What no link and no port can be makes a damaged record, which DEL does without."""
    store = EndpointStore(str(tmp_path))
    store.save(ENDPOINT)
    path = tmp_path / "blue" / "c1:eth0"
    fields = json.loads(path.read_text())
    assert isinstance(fields, dict)
    path.write_text(json.dumps(fields | changes))
    with pytest.raises(StateFailure, match="damaged"):
        store.load("blue", KEY)


@pytest.mark.parametrize(
    "place", ["blue", ".cnm", ".cnm/blue", ".cnm/blue/owners", ".cnm/blue/used"]
)
def test_a_link_for_a_directory_of_addresses(tmp_path: Path, victim: Path, place: str) -> None:
    """The index is built nowhere else, and nothing is emptied for it there."""
    before = _content(victim)
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(victim)
    allocations = Allocations(str(tmp_path), "blue")
    with pytest.raises(StateFailure, match=str(path)), allocations:
        allocations.claim([IP], KEY)
    if place == "blue":
        with pytest.raises(StateFailure, match=str(path)):
            allocations.release_unindexed(KEY)
    assert _content(victim) == before


@pytest.mark.parametrize("name", [".blue.claim", "blue/owners/c1:eth0", "blue/used/4-a01"])
def test_a_link_in_the_index(tmp_path: Path, victim: Path, name: str) -> None:
    """No file of the index is written through a link; a second call has repaired it."""
    allocations = Allocations(str(tmp_path), "blue")
    with allocations:
        allocations.claim([parse_ip("10.1.0.3")], EndpointKey("c2", "eth0"))
    before = _content(victim)
    stamp = (tmp_path / "blue").stat().st_mtime_ns
    place = tmp_path / ".cnm" / name
    place.unlink(missing_ok=True)
    place.symlink_to(victim / "passwd")
    os.utime(tmp_path / ".cnm/blue", ns=(stamp, stamp))
    for _ in range(2):
        try:
            with allocations:
                assert allocations.next_free(0x0A010003, 0x0A0100FF, 4) == 0x0A010004
                allocations.release(KEY)
                assert allocations.claim([IP], KEY) is None
        except StateFailure as failure:
            assert str(tmp_path / ".cnm/blue") in failure.msg
    with allocations:
        assert allocations.of(KEY) == [IP]
    assert _content(victim) == before


def test_an_index_that_makes_no_sense(tmp_path: Path) -> None:
    """The index is built anew from the files where it names what is no address."""
    allocations = Allocations(str(tmp_path), "blue")
    with allocations:
        allocations.claim([IP], KEY)
    owner = tmp_path / ".cnm/blue/owners/c1:eth0"
    stamp = (tmp_path / "blue").stat().st_mtime_ns
    owner.unlink()
    owner.symlink_to("../../etc/passwd")
    os.utime(tmp_path / ".cnm/blue", ns=(stamp, stamp))
    with allocations:
        assert allocations.of(KEY) == [IP]
    (tmp_path / ".cnm/blue/owners/:x").symlink_to("x")
    stamp = (tmp_path / "blue").stat().st_mtime_ns
    os.utime(tmp_path / ".cnm/blue", ns=(stamp, stamp))
    with pytest.raises(StateFailure, match="damaged"), allocations:
        allocations.ownerless()
    with allocations:
        assert allocations.ownerless() == []
        assert allocations.of(KEY) == [IP]


@pytest.mark.parametrize("head", ["9" * 40, "0", "-1", "77"])
def test_a_queue_that_begins_nowhere(tmp_path: Path, head: str) -> None:
    """It begins with its first line."""
    resting = Resting(str(tmp_path / "resting"))
    resting.append([IP], 5)
    content = (tmp_path / "resting").read_bytes()
    (tmp_path / "resting").write_bytes(head.encode().ljust(63) + b"\n" + content[64:])
    assert list(resting) == [(5, IP)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("journal", "{"),
        ("journal", "[]"),
        ("journal", '{"revision": 1, "steps": [[5, "x", 0]]}'),
        ("leases/1", "x"),
        ("history", "x y\n"),
    ],
)
def test_a_damaged_store_of_one_host(tmp_path: Path, name: str, content: str) -> None:
    """An error that names the directory."""
    store = FileStore(str(tmp_path))
    store.commit((), (Put("a/b", "c"),))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(StateFailure, match=str(tmp_path)):
        next(store.watch("", 0))


@pytest.mark.parametrize("blocks", [[[5, 5]], [5], "x", [["10.1.0.0/27", "x"]]])
def test_a_damaged_view_of_a_cluster(tmp_path: Path, blocks: object) -> None:
    """It counts as none: the store says it again."""
    fields = {"vtep": "192.0.2.1", "underlayMtu": 1500, "joined": 1, "made": 1, "network": "{}"}
    files.make_directories(str(tmp_path / ".overlay"))
    (tmp_path / ".overlay/blue").write_text(json.dumps(fields | {"blocks": blocks}))
    cluster = Cluster(FileStore(str(tmp_path / "store")), lambda _: None)
    assert Membership(cluster, str(tmp_path), "n1").known("blue") is None


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """A link to nowhere, and a path without end, are errors that name the directory."""
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    for path in (f"{tmp_path}/nowhere/blue", f"{tmp_path}{'/a' * 2100}"):
        with pytest.raises(StateFailure, match="cannot make directory"):
            files.make_directories(path)


def test_a_deep_directory(tmp_path: Path) -> None:
    """Its depth is not the interpreter's."""
    deep = f"{tmp_path}{'/b' * 1200}"
    try:
        files.make_directories(deep)
        assert os.path.isdir(deep)
    finally:
        run("rm", "-r", f"{tmp_path}/b")  # shutil.rmtree goes no deeper than the interpreter


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"cniVersion": "1.1.0", "cnm": {"created": NaN}}',
        '{"cniVersion": "1.1.0", "cnm": {"created": 1e999}}',
        '{"cniVersion": ["1.1.0"], "cnm": {}}',
        '{"cniVersion": "1.1.0", "cnm": []}',
        '["cniVersion"]',
    ],
    ids=lambda value: value[:50],
)
def test_a_senseless_part_of_a_conflist(content: str) -> None:
    """What another host has written makes no file here that runtimes could not read."""
    subnet = Subnet(parse_address("10.1.0.0/16"), parse_ip("10.1.0.1"))
    network = SharedNetwork("blue", 4097, 4789, 1400, False, (subnet,))
    with pytest.raises(StateFailure, match="conflists/blue"):
        overlay_file.document(network, content, {})


def test_a_conflist_has_no_more_of_another_host(tmp_path: Path) -> None:
    """Neither a program nor a directory is another host's to choose."""
    subnet = Subnet(parse_address("10.1.0.0/16"), parse_ip("10.1.0.1"))
    network = SharedNetwork("blue", 4097, 4789, 1400, False, (subnet,))
    about = {"created": "x", "labels": {}, "plugins": [{"type": "sh"}]}
    content = {"cniVersion": "1.1.0", "cnm": about, "plugins": [{"type": "sh"}], "name": "../x"}
    document = overlay_file.document(network, json.dumps(content), {"stateDir": "/run/cnm"})
    assert document["name"] == "blue"
    assert [each["type"] for each in document["plugins"]] == ["overlay"]
    assert "sh" not in json.dumps(document).split('"')


def test_a_link_for_what_a_driver_gave(tmp_path: Path, victim: Path) -> None:
    """Records of Docker IPAM drivers are not written to where a link leads."""
    before = _content(victim)
    (tmp_path / "blue").symlink_to(victim)
    with pytest.raises(StateFailure, match=str(tmp_path / "blue")):
        RemoteStore(str(tmp_path), "blue").lock(1)
    assert _content(victim) == before
