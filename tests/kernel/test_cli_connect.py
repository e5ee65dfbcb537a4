"""`cnm network connect` and `disconnect`, `cnm endpoint`, `cnm ipam`, by the built command."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import cni
from tests.commands import FAILED, IN_THE_WAY, NOT_FOUND, USAGE, Cnm
from tests.iproute import HOST, Netns, Snapshot, exchange_by_tcp, run

MakeNetns = Callable[[], Netns]
TakeSnapshot = Callable[..., Snapshot]
CACHE = Path("/var/lib/cni/results")


@pytest.fixture
def blue(cnm: Cnm) -> Cnm:
    """The command line with a dual-stack network."""
    words = ("--subnet", "10.9.0.0/24", "--subnet", "fd00:9::/64")
    cnm.run("network", "create", *words, "blue")
    return cnm


def test_connect_and_disconnect(blue: Cnm, netns: MakeNetns, snapshot: TakeSnapshot) -> None:
    """An interface with addresses and traffic, and nothing of it afterwards."""
    one, other = netns(), netns()
    blue.run("network", "connect", "blue", other.path)
    before = snapshot(one, other)
    assert blue.run("network", "connect", "blue", one.name) == "eth0 10.9.0.3/24 fd00:9::3/64\n"
    assert exchange_by_tcp(other, one, "10.9.0.3", b"hello") == b"hello"
    assert exchange_by_tcp(other, one, "fd00:9::3", b"hello") == b"hello"
    assert blue.run("network", "disconnect", "blue", one.name) == ""
    assert snapshot(one, other) == before


def test_addresses_and_names_that_are_asked_for(blue: Cnm, netns: MakeNetns) -> None:
    """--ip, one of each version, and --ifname; refused where they are taken."""
    one, other = netns(), netns()
    words = ("--ip", "10.9.0.77", "--ip", "fd00:9::77", "--ifname", "lan")
    (result,) = blue.lines("network", "connect", *words, "blue", one.name)
    assert cni.addresses(result) == ["10.9.0.77", "fd00:9::77"]
    assert one.addresses("lan") == ["10.9.0.77/24", "fd00:9::77/64"]
    taken = blue.call("network", "connect", "--ip", "10.9.0.77", "blue", other.name)
    taken.fails(FAILED, "10.9.0.77", "held by")
    assert "eth0" not in other.links()
    again = blue.call("network", "connect", "--ifname", "lan", "blue", one.name)
    again.fails(IN_THE_WAY, '"lan"')
    outside = blue.call("network", "connect", "--ip", "10.8.0.1", "blue", other.name)
    outside.fails(FAILED, "10.8.0.1", "no range")
    for option, value in (("--ip", "10.9"), ("--ifname", "a/b"), ("-p", "80"), ("-p", "x:80:80")):
        assert blue.call("network", "connect", option, value, "blue", other.name).code == USAGE


def test_published_ports(blue: Cnm, netns: MakeNetns) -> None:
    """-p leads from the host to the sandbox."""
    sandbox = netns()
    blue.run(
        "network", "connect", "-p", "127.0.0.1:8080:80", "-p", "53:53/udp", "blue", sandbox.name
    )
    (endpoint,) = blue.lines("endpoint", "ls")
    assert endpoint["Ports"] == ["127.0.0.1:8080->80/tcp", "53->53/udp"]
    with sandbox.entered():
        server = subprocess.Popen(["python3", "-c", _SERVER], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        assert server.stdout.readline() == "ready\n"
        assert run("python3", "-c", _CLIENT) == "hello"
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    blue.run("network", "disconnect", "blue", sandbox.name)
    assert "8080" not in run("nft", "list", "ruleset")
    blue.run("network", "create", "--internal", "inner")
    refused = blue.call("network", "connect", "-p", "1:1", "inner", sandbox.name)
    refused.fails(FAILED, '"inner" publishes no ports')


_SERVER = """
import socket
with socket.create_server(("0.0.0.0", 80)) as server:
    print("ready", flush=True)
    near, _ = server.accept()
    near.sendall(b"hello")
    near.close()
"""
_CLIENT = """
import socket
with socket.create_connection(("127.0.0.1", 8080), timeout=60) as near:
    print(near.recv(9).decode(), end="")
"""


def test_several_networks(blue: Cnm, netns: MakeNetns) -> None:
    """A sandbox on two networks has the default routes of both, and is whole for CHECK."""
    blue.run("network", "create", "--subnet", "10.10.0.0/24", "red")
    sandbox = netns()
    blue.run("network", "connect", "blue", sandbox.name)
    assert blue.run("network", "connect", "red", sandbox.name) == "eth1 10.10.0.2/24\n"
    assert _gateways(sandbox) == ["10.10.0.1", "10.9.0.1"]
    for name, ifname in (("blue", "eth0"), ("red", "eth1")):
        done = blue.cnitool("check", name, sandbox.path, CNI_IFNAME=ifname)
        assert done.code == 0, done
    blue.run("network", "disconnect", "red", sandbox.name)
    assert _gateways(sandbox) == ["10.9.0.1"]


def _gateways(sandbox: Netns) -> list[str]:
    return [each["gateway"] for each in sandbox.routes(4) if each["dst"] == "default"]


def test_several_interfaces(blue: Cnm, netns: MakeNetns) -> None:
    """On one network a sandbox may have more than one; --ifname tells which goes."""
    sandbox = netns()
    for ifname in ("eth0", "eth1"):
        done = blue.run("network", "connect", "blue", sandbox.name)
        assert done.startswith(f"{ifname} ")
    assert len(blue.inspect("blue")["Containers"]) == 2
    blue.run("network", "disconnect", "--ifname", "eth1", "blue", sandbox.name)
    assert [each["Interface"] for each in blue.lines("endpoint", "ls")] == ["eth0"]
    blue.run("network", "disconnect", "blue", sandbox.name)
    assert blue.run("endpoint", "ls", "-q") == ""


def test_cnitool_undoes_it(blue: Cnm, netns: MakeNetns) -> None:
    """Either deletes what the other added, since both keep results alike."""
    sandbox = netns()
    blue.run("network", "connect", "-p", "8080:80", "blue", sandbox.path)
    (cached,) = CACHE.iterdir()
    assert cached.stat().st_mode & 0o777 == 0o600
    assert blue.cnitool("check", "blue", sandbox.path).code == 0
    blue.delete("blue", sandbox)
    assert (list(CACHE.iterdir()), cni.leases()) == ([], {})
    assert "8080" not in run("nft", "list", "ruleset")
    blue.add("blue", sandbox)
    blue.run("network", "disconnect", "blue", sandbox.path)
    assert (list(CACHE.iterdir()), cni.leases()) == ([], {})


def test_a_sandbox_that_is_gone(blue: Cnm, netns: MakeNetns, snapshot: TakeSnapshot) -> None:
    """Is disconnected by its name all the same."""
    before = snapshot()
    sandbox = netns()
    blue.run("network", "connect", "blue", sandbox.name)
    run("ip", "netns", "delete", sandbox.name)
    (endpoint,) = blue.lines("endpoint", "ls")
    assert (endpoint["Sandbox"], endpoint["SandboxAlive"]) == (sandbox.path, False)
    assert f"{sandbox.path} (gone)" in blue.run("endpoint", "ls")
    blue.call("network", "connect", "blue", sandbox.name).fails(NOT_FOUND, sandbox.name)
    blue.run("network", "disconnect", "blue", sandbox.name)
    assert snapshot().files == before.files
    gone = blue.call("network", "disconnect", "blue", sandbox.name)
    gone.fails(NOT_FOUND, "no endpoint", "cnm endpoint ls")


def test_a_chain_of_plugins(blue: Cnm, netns: MakeNetns) -> None:
    """Lists of others run as libcni runs them: results handed on, backwards at the end."""
    bridge = blue.plugin("blue") | {"bridge": "br-chain", "ipMasq": False}
    bridge["ipam"] = cni.host_local("10.20.0.0/24")
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    del bridge["capabilities"]
    blue.put(
        "chain.conflist", {"cniVersion": "1.0.0", "name": "chain", "plugins": [bridge, portmap]}
    )
    sandbox = netns()
    words = ("-p", "8080:80", "--ip", "10.20.0.9")
    assert blue.run("network", "connect", *words, "chain", sandbox.name) == "eth0 10.20.0.9/24\n"
    assert "8080" in run("nft", "list", "ruleset")
    blue.run("network", "disconnect", "chain", sandbox.name)
    assert "8080" not in run("nft", "list", "ruleset")
    assert not cni.leases("chain")


def test_a_failure_in_the_chain(blue: Cnm, netns: MakeNetns, snapshot: TakeSnapshot) -> None:
    """What earlier plugins made is deleted again; the failed one's words are passed on."""
    bridge = blue.plugin("blue")
    missing = {"type": "no-such-plugin"}
    blue.put(
        "90-blue.conflist", {"cniVersion": "1.0.0", "name": "blue", "plugins": [bridge, missing]}
    )
    sandbox = netns()
    done = blue.call("network", "connect", "blue", sandbox.name)
    done.fails(NOT_FOUND, 'failed to find plugin "no-such-plugin"', "--cni-path")
    assert "eth0" not in sandbox.links()
    assert not cni.leases()


CONFIG = {
    "ociVersion": "1.0.2",
    "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/sleep", "100"], "cwd": "/"},
    "root": {"path": "rootfs", "readonly": True},
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
    "linux": {"namespaces": [{"type": each} for each in ("pid", "network", "mount")]},
}


@pytest.fixture
def containers(node: None, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Two containers that run under runc, as podman and CRI-O have it run them."""
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    run("mount", "--bind", "/", str(tmp_path / "rootfs"))
    names = (f"{'c0ffee' * 10}cafe", f"{'c0ffee' * 10}beef")
    try:
        for name in names:
            subprocess.run(
                ["runc", "run", "--detach", "--bundle", tmp_path, name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                check=True,
            )
        yield names
    finally:
        for name in names:
            subprocess.run(["runc", "delete", "--force", name], check=False)
        run("umount", str(tmp_path / "rootfs"))


def test_containers(blue: Cnm, containers: tuple[str, str]) -> None:
    """A container is called by its ID or an unambiguous part, while it runs and after."""
    one, other = containers
    blue.run("network", "connect", "blue", one)
    (endpoint,) = blue.lines("endpoint", "ls")
    assert endpoint["Container"] == one
    process = int(json.loads(Path(f"/run/runc/{one}/state.json").read_text())["init_process_pid"])
    inside = run("nsenter", f"--net=/proc/{process}/ns/net", "ip", "-br", "addr", "show", "eth0")
    assert "10.9.0.2/24" in inside
    blue.call("network", "connect", "blue", one[:12]).fails(NOT_FOUND, "2 containers")
    blue.run("network", "connect", "blue", other[:-1])
    run("runc", "kill", one, "KILL")
    run("runc", "delete", "--force", one)
    blue.call("network", "connect", "blue", one).fails(NOT_FOUND, "running container")
    blue.run("network", "disconnect", "blue", one)
    assert [each["Container"] for each in blue.lines("endpoint", "ls")] == [other]
    blue.run("network", "rm", "-f", "blue")


def test_endpoints_of_networks_without_a_file(blue: Cnm, netns: MakeNetns) -> None:
    """Are listed by their records; so are those whose record is damaged."""
    blue.run("network", "connect", "blue", netns().name)
    (blue.networks / "90-blue.conflist").unlink()
    (endpoint,) = blue.lines("endpoint", "ls")
    assert (endpoint["Network"], endpoint["Addresses"][0]) == ("blue", "10.9.0.2/24")
    (record,) = (path for path in Path("/run/cnm/blue").iterdir() if ":" in path.name)
    record.write_text("{")
    done = blue.call("endpoint", "ls")
    assert done.code == 0
    assert "damaged" in done.err and record.name.partition(":")[0] in done.out


def test_ipam(blue: Cnm, netns: MakeNetns) -> None:
    """Pools with their use, addresses with their holders, and what is left by nobody."""
    sandbox = netns()
    blue.run("network", "connect", "blue", sandbox.name)
    ipv4, ipv6 = blue.lines("ipam", "ls")
    assert ipv4 == {
        "Network": "blue",
        "Subnet": "10.9.0.0/24",
        "IPsInUse": 1,
        "DynamicIPsAvailable": 252,
    }
    assert ipv6["IPsInUse"] == 1
    held, _ = blue.lines("ipam", "ls", "blue")
    assert (held["Address"], held["Interface"]) == ("10.9.0.2", "eth0")
    assert held["Container"] in blue.run("ipam", "ls", "blue")
    blue.call("ipam", "release", "blue", "10.9.0.2").fails(IN_THE_WAY, "10.9.0.2", "disconnect")
    blue.call("ipam", "release", "blue", "10.9.0.3").fails(NOT_FOUND, "10.9.0.3 is not in use")
    assert blue.call("ipam", "release", "blue", "10.9").code == USAGE
    run("ip", "netns", "delete", sandbox.name)
    assert blue.run("ipam", "release", "blue", "10.9.0.2") == "10.9.0.2\nfd00:9::2\n"
    assert not cni.leases()


def test_an_address_that_names_nobody(blue: Cnm) -> None:
    """As the Go plugin leaves it when it is killed."""
    Path("/var/lib/cni/networks/blue").mkdir(parents=True)
    Path("/var/lib/cni/networks/blue/10.9.0.8").touch()
    assert blue.lines("ipam", "ls", "blue") == [
        {"Network": "blue", "Address": "10.9.0.8", "Container": "", "Interface": ""}
    ]
    assert blue.run("ipam", "release", "blue", "10.9.0.8") == "10.9.0.8\n"
    assert not cni.leases()


def test_a_network_of_another_ipam_driver(blue: Cnm) -> None:
    """Its addresses are not ours to free."""
    blue.run("network", "create", "--ipam-driver", "none", "flat")
    blue.call("ipam", "release", "flat", "10.0.0.1").fails(FAILED, "another IPAM driver")


def test_the_hosts_own_namespace(blue: Cnm) -> None:
    """Is never a sandbox of a bridge."""
    done = blue.call("network", "connect", "blue", "/proc/1/ns/../ns/net")
    assert done.code in (FAILED, NOT_FOUND)
    blue.call("network", "connect", "blue", "/proc/self/ns/net").fails(FAILED, "should not be")
    assert "eth0" not in HOST.links()
