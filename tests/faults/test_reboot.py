"""A reboot takes namespaces, links and records away, and leaves the files of addresses."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import cni, iproute
from tests.cni import PLUGIN_SPECIFIC, Config, Endpoint, Outcome
from tests.iproute import HOST, Netns, run

ADDRESS_IN_USE, POOL_EXHAUSTED = 103, 102
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
HOUR = 3600

Call = Callable[..., Outcome]
MakeEndpoint = Callable[[], Endpoint]
Reboot = Callable[[], None]


@pytest.fixture
def reboot(node: None, tmp_path: Path) -> Iterator[Reboot]:
    """Leaves what a reboot leaves."""
    boots = iter(range(100))

    def restart() -> None:
        for name in Path("/run/netns").iterdir():
            run("ip", "netns", "delete", name.name)
        iproute.checked(iproute.libc.unshare(iproute.CLONE_NEWNET))
        HOST.ip("link", "set", "lo", "up")
        shutil.rmtree("/run/cnm", ignore_errors=True)
        boot_id = tmp_path / f"boot{next(boots)}"
        boot_id.write_text(f"{boot_id.name}000-0000-4000-8000-000000000000\n")
        run("mount", "--bind", str(boot_id), str(BOOT_ID))

    try:
        yield restart
    finally:
        for _ in range(next(boots)):
            run("umount", str(BOOT_ID))


@pytest.fixture
def host_local(executable: Callable[[str], Path], cni_bin: Path) -> Callable[[str], Endpoint]:
    """Makes clients of host-local, as other plugins are, which keep no records."""

    def client(container_id: str) -> Endpoint:
        return Endpoint(executable("host-local"), str(cni_bin), container_id, Netns("absent"))

    return client


def _patient(config: Config) -> Config:
    return cni.changed(config, "ipam.gcGraceSeconds", HOUR)


def test_gc(endpoint: MakeEndpoint, call: Call, config: Config, reboot: Reboot) -> None:
    """GC frees what was claimed before the reboot, however long ago; not what came since."""
    config = _patient(config)
    for _ in range(3):
        endpoint().add(config)
    call("GC", cni.collected(config)).silent()
    assert len(cni.leases()) == 3
    reboot()
    new = endpoint()
    result = new.add(config)
    assert cni.addresses(result) == ["10.1.0.5"]
    call("GC", cni.collected(config)).silent()
    assert list(cni.leases()) == ["10.1.0.5"]
    new.check(config, result).silent()


def test_valid_attachments_stay(
    endpoint: MakeEndpoint, call: Call, config: Config, reboot: Reboot
) -> None:
    """What the runtime still calls valid keeps its address over the reboot, until DEL."""
    old = endpoint()
    old.add(config)
    reboot()
    call("GC", cni.collected(config, old)).silent()
    assert list(cni.leases()) == ["10.1.0.2"]
    old.delete(config)
    assert not cni.leases()


@pytest.mark.parametrize("plugin", ["bridge", "host-local"])
def test_the_same_container_again(
    endpoint: MakeEndpoint, config: Config, reboot: Reboot, plugin: str, netns: Callable[[], Netns]
) -> None:
    """A container that is started again under its old name gets an address, and keeps no other."""
    old = endpoint()
    old.add(config)
    old.call("ADD", config).error(PLUGIN_SPECIFIC)
    reboot()
    again = Endpoint(old.binary, old.path, old.container_id, netns())
    result = again.add(config)
    assert list(cni.leases()) == cni.addresses(result)
    again.call("ADD", config).error(PLUGIN_SPECIFIC)
    again.delete(config)
    assert not cni.leases()


def test_an_exhausted_pool(
    endpoint: MakeEndpoint, call: Call, config: Config, reboot: Reboot
) -> None:
    """Addresses from before the reboot are given to nobody before GC; the error counts them."""
    config = _patient(cni.changed(config, "ipam.ranges", [[{"subnet": "10.1.0.0/30"}]]))
    endpoint().add(config)
    reboot()
    new = endpoint()
    error = new.call("ADD", config).error(POOL_EXHAUSTED)
    assert "by 1 attachments since before the machine was booted" in error["msg"]
    assert "GC" in error["details"]
    call("GC", cni.collected(config)).silent()
    assert cni.addresses(new.add(config)) == ["10.1.0.2"]
    error = endpoint().call("ADD", config).error(POOL_EXHAUSTED)
    assert "booted" not in error["msg"]


def test_another_boot_of_the_same_index(
    host_local: Callable[[str], Endpoint], config: Config, reboot: Reboot
) -> None:
    """Boots are told apart after many of them, and after foreign changes in between."""
    for number in range(3):
        host_local("stays").add(config)
        host_local(f"c{number}").add(config)
        (cni.LEASES / "blue" / f"10.1.0.10{number}").write_text(f"foreign{number}\r\neth0")
        host_local("stays").call("ADD", config).error(ADDRESS_IN_USE)
        reboot()
    assert len(cni.leases()) == 7
    host_local("c0").call("GC", cni.collected(_patient(config))).silent()
    assert not cni.leases()


def test_the_go_plugins_addresses(
    host_local: Callable[[str], Endpoint], config: Config, reboot: Reboot
) -> None:
    """A claim of the Go plugin is as old as our first look at it, and never older."""
    config = _patient(config | {"cniVersion": "1.0.0"})
    theirs = [
        Endpoint(Path("/usr/lib/cni/host-local"), "/usr/lib/cni", f"go{number}", Netns("absent"))
        for number in range(2)
    ]
    theirs[0].add(config)
    host_local("ours").add(config)
    reboot()
    theirs[1].add(config)
    newest = cni.collected(config) | {"cniVersion": cni.NEWEST}
    host_local("ours").call("GC", newest).silent()
    assert list(cni.leases().values()) == [("go1", "eth0")]


def test_a_lost_index(
    host_local: Callable[[str], Endpoint], config: Config, reboot: Reboot
) -> None:
    """Without the index nothing is known to be old: addresses stay until the grace is over."""
    host_local("c1").add(config)
    reboot()
    shutil.rmtree(cni.LEASES / ".cnm")
    host_local("c1").call("ADD", config).error(ADDRESS_IN_USE)
    host_local("c1").call("GC", cni.collected(_patient(config))).silent()
    assert list(cni.leases()) == ["10.1.0.2"]
    host_local("c1").call("GC", cni.collected(config)).silent()
    assert not cni.leases()


@pytest.fixture
def published(config: Config, tmp_path: Path) -> Callable[[str, int], Config]:
    """A network with masquerade whose containers publish a port, with its records in a place."""

    def make(state: str, port: int) -> Config:
        ports = [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]
        own = {"ipMasq": True, "macspoofchk": True, "runtimeConfig": {"portMappings": ports}}
        return _patient(config) | own | {"stateDir": f"{tmp_path}/state" if state else "/run/cnm"}

    return make


@pytest.mark.parametrize("state", ["", "disk"])
def test_rules_and_ports(
    endpoint: MakeEndpoint,
    call: Call,
    snapshot: Callable[..., iproute.Snapshot],
    published: Callable[[str, int], Config],
    reboot: Reboot,
    tmp_path: Path,
    state: str,
) -> None:
    """A host port from before the reboot is free, also where records outlive it on a disk."""
    old = [endpoint() for _ in range(2)]
    for number, each in enumerate(old):
        each.add(published(state, 8080 + number))
    reboot()
    new = endpoint()
    result = new.add(published(state, 8080))
    new.check(published(state, 8080), result).silent()
    rules = run("nft", "list", "ruleset")
    assert "8080" in rules and "8081" not in rules
    call("GC", cni.collected(published(state, 8080), new)).silent()
    new.check(published(state, 8080), result).silent()
    new.delete(published(state, 8080))
    left = snapshot(new.netns, directories=(tmp_path,))
    new.add(published(state, 8080))
    new.delete(published(state, 8080))
    assert snapshot(new.netns, directories=(tmp_path,)) == left
    assert not cni.leases()
    assert not [path for path in left.files if any(each.container_id in path for each in old)]


def test_overlay_on_files(
    executable: Callable[[str], Path],
    cni_bin: Path,
    netns: Callable[[], Netns],
    reboot: Reboot,
) -> None:
    """A host that is its own cluster: what was claimed goes by GC, the network is made anew."""
    binary = executable("overlay")
    config = {
        "cniVersion": cni.NEWEST,
        "name": "blue",
        "type": "overlay",
        "node": "host-1",
        "underlay": "192.0.2.1",
        "subnets": [{"subnet": "10.7.0.0/24"}],
    }

    def host() -> None:
        HOST.ip("link", "add", "uplink", "type", "veth", "peer", "name", "cable")
        HOST.ip("addr", "add", "192.0.2.1/24", "dev", "uplink")
        HOST.ip("link", "set", "uplink", "up")

    def endpoint(name: str) -> Endpoint:
        return Endpoint(binary, str(cni_bin), name, netns())

    host()
    old = [endpoint(name) for name in ("deleted", "collected", "again")]
    given = [cni.addresses(each.add(config))[0] for each in old]
    reboot()
    host()
    new = endpoint("new")
    result = new.add(config)
    assert cni.addresses(result)[0] not in given
    old[0].delete(config)
    again = endpoint("again")
    more = again.add(config)
    assert new.netns.reaches(cni.addresses(more)[0])
    cni.call(binary, "GC", cni.collected(config, new, again), path=str(cni_bin)).silent()
    for each, said in ((new, result), (again, more)):
        each.check(config, said).silent()
        each.delete(config)
    files = [path for path in Path("/var/lib/cnm/cluster").rglob("*") if path.is_file()]
    assert not [path for path in files if any(ip in path.name for ip in given)]
