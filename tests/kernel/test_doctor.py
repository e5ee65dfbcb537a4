"""`cnm doctor`: what it finds on a node, what it mends, and that looking changes nothing."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from cnm_core.cli.doctor.kernel import FEATURES, Modules
from tests import cni
from tests.cni import Config, Endpoint
from tests.iproute import HOST, Snapshot, run
from tests.kernel.test_restore import DAMAGES

MakeEndpoint = Callable[[], Endpoint]
RECORDS = Path("/run/cnm/blue")
LONG_AGO = 1_000_000_000  # seconds since 1970
NETWORK = cni.network(capabilities={"portMappings": True})
PORTS = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
OTHER_PORTS = {"portMappings": [{"hostPort": 8081, "containerPort": 80, "protocol": "tcp"}]}


def lose(endpoint: Endpoint) -> None:
    """Remove an endpoint's namespace, and wait until the kernel has removed its link too."""
    run("ip", "netns", "delete", endpoint.netns.name)
    alias = f"cnm blue {endpoint.container_id}:"
    deadline = monotonic() + cni.PATIENCE
    while alias in run("ip", "link"):
        assert monotonic() < deadline
        sleep(0.01)


class Doctor:
    """The built command, with a directory of networks and one of plugins."""

    def __init__(self, binary: Path, networks: Path, path: str) -> None:
        self._command = [binary, "doctor", "--conf-dir", networks, "--cni-path", path]
        self._networks = networks

    def configure(self, *plugins: Config, name: str = "blue") -> None:
        """Write a network's file."""
        document = {"cniVersion": cni.NEWEST, "name": name, "plugins": plugins}
        (self._networks / f"{name}.conflist").write_text(json.dumps(document))

    def run(self, *options: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """The command's outcome, with that exit code."""
        done = subprocess.run(
            [*self._command, *options],
            capture_output=True,
            text=True,
            check=False,
            timeout=cni.PATIENCE,
        )
        assert done.returncode == code, done
        return done

    def findings(self, *options: str, code: int = 0) -> list[Any]:
        """What it says, for programs."""
        lines = self.run("--format", "json", *options, code=code).stdout.splitlines()
        return [json.loads(line) for line in lines]

    def wrong(self) -> dict[str, str]:
        """The message for each thing that is wrong, of which there must be some."""
        found = self.findings(code=1)
        return {each["subject"]: each["message"] for each in found if each["status"] == "error"}


@pytest.fixture
def doctor(cni_bin: Path, executable: Callable[[str], Path], tmp_path: Path) -> Doctor:
    """A node with one network."""
    doctor = Doctor(executable("cnm"), tmp_path, str(cni_bin))
    doctor.configure(cni.without(NETWORK, "name", "cniVersion"))
    return doctor


def test_healthy_node(doctor: Doctor, endpoint: MakeEndpoint) -> None:
    """Nothing is wrong with endpoints that live, and they are left alone."""
    one = endpoint()
    result = one.add(NETWORK | {"runtimeConfig": PORTS})
    found = doctor.findings("--fix")
    assert {each["status"] for each in found} <= {"ok", "warning"}
    assert not [each for each in found if each["area"] == "state"]
    one.check(NETWORK | {"runtimeConfig": PORTS}, result).silent()
    assert {each["subject"] for each in found} >= {feature.name for feature in FEATURES}


def test_looking_changes_nothing(
    doctor: Doctor, endpoint: MakeEndpoint, snapshot: Callable[..., Snapshot]
) -> None:
    """Links, addresses, rules, settings and files are as before, also where much is wrong."""
    live, gone = endpoint(), endpoint()
    live.add(NETWORK)
    gone.add(NETWORK)
    lose(gone)
    before = snapshot(live.netns)
    assert doctor.wrong()
    assert snapshot(live.netns) == before


def test_sandbox_is_gone(doctor: Doctor, endpoint: MakeEndpoint) -> None:
    """Records and addresses of endpoints whose namespace is gone are found and collected."""
    live, gone = endpoint(), endpoint()
    config = NETWORK | {"runtimeConfig": PORTS}
    result = live.add(config)
    gone.add(NETWORK)
    lose(gone)
    record = str(RECORDS / f"{gone.container_id}:eth0")
    assert f"{gone.netns.path} is" in doctor.wrong()[record]
    first, *found = doctor.findings("--fix")
    assert first == {"mended": 'had bridge of network "blue" collect what is left over'}
    assert not [each for each in found if each["status"] == "error"]
    assert list(cni.leases().values()) == [(live.container_id, "eth0")]
    live.check(config, result).silent()


def test_namespace_of_another(doctor: Doctor, endpoint: MakeEndpoint) -> None:
    """Another namespace under the same path is not the endpoint's."""
    one, other = endpoint(), endpoint()
    one.add(NETWORK)
    lose(one)
    Path(one.netns.path).touch()
    run("mount", "--bind", other.netns.path, one.netns.path)
    assert str(RECORDS / f"{one.container_id}:eth0") in doctor.wrong()
    doctor.run("--fix")
    assert not cni.leases()


def test_record_is_lost(doctor: Doctor, endpoint: MakeEndpoint) -> None:
    """Links, elements and addresses that no record tells of are found and collected."""
    one = endpoint()
    one.add(NETWORK | {"runtimeConfig": PORTS, "macspoofchk": True})
    (RECORDS / f"{one.container_id}:eth0").unlink()
    (port,) = HOST.ports("blue0")
    ((address, _),) = cni.leases().items()
    found = doctor.wrong()
    assert {port, "nftables ip cnm ports", "nftables bridge cnm sources"} == found.keys()
    file = cni.LEASES / "blue" / address
    os.utime(file, (LONG_AGO, LONG_AGO))  # as if it were no ADD that is on its way
    assert one.container_id in doctor.wrong()[str(file)]
    doctor.run("--fix")
    assert not HOST.ports("blue0")
    assert not cni.leases()
    assert one.container_id not in run("nft", "list", "ruleset")


def test_an_address_that_a_runtime_knows(doctor: Doctor, endpoint: MakeEndpoint) -> None:
    """Attachments of other plugins, which the runtime has results of, keep their addresses."""
    one = endpoint()
    one.add(NETWORK)
    (RECORDS / f"{one.container_id}:eth0").unlink()
    ((address, _),) = cni.leases().items()
    os.utime(cni.LEASES / "blue" / address, (LONG_AGO, LONG_AGO))
    results = Path("/var/lib/cni/results")
    results.mkdir()
    known = {"networkName": "blue", "containerId": one.container_id, "ifName": "eth0"}
    result = results / f"blue-{one.container_id}-eth0"
    result.write_text(json.dumps({**known, "netns": one.netns.path}))
    doctor.run("--fix")
    assert address in cni.leases()
    lose(one)
    assert doctor.wrong()
    doctor.run("--fix")
    assert not cni.leases()


def test_damaged_record(doctor: Doctor, endpoint: MakeEndpoint) -> None:
    """A record that makes no sense is named; what it was about may live, and is left alone."""
    one = endpoint()
    one.add(NETWORK)
    record = RECORDS / f"{one.container_id}:eth0"
    record.write_text("{")
    assert doctor.wrong().keys() == {str(record)}
    doctor.run("--fix", code=1)
    assert one.netns.reaches("10.1.0.1")
    one.delete(NETWORK)
    doctor.run()


PLAIN = NETWORK | {"isDefaultGateway": True, "ipMasq": True}


@pytest.mark.parametrize("damage", DAMAGES)
def test_rules_are_lost(doctor: Doctor, endpoint: MakeEndpoint, damage: str) -> None:
    """Rules that somebody flushed are missed, and made again."""
    ipam = cni.host_local("10.1.0.0/24", "fd00:1::/64")
    config = PLAIN | {"macspoofchk": True, "ipam": ipam, "runtimeConfig": PORTS}
    one = endpoint()
    result = one.add(config)
    doctor.run()
    for statement in DAMAGES[damage]:
        run("nft", *statement.split())
    assert "expected" in doctor.wrong()["nftables"]
    first, *found = doctor.findings("--fix")
    assert first == {"mended": "made rules of nftables again, by the records in /run/cnm"}
    assert not [each for each in found if each["status"] == "error"]
    one.check(config, result).silent()


def test_a_port_is_lost(doctor: Doctor, endpoint: MakeEndpoint) -> None:
    """Of portmap, whose records are its own, as well; what others have is as before."""
    one, other = endpoint(), endpoint()
    config = PLAIN | {"runtimeConfig": PORTS}
    chained = PLAIN | {"type": "portmap", "runtimeConfig": OTHER_PORTS}
    result, above = one.add(config), other.add(PLAIN)
    portmap = replace(other, binary=other.binary.with_name("portmap"))
    portmap.add(chained | {"prevResult": above})
    doctor.run()
    run("nft", "flush", "map", "ip", "cnm", "ports")
    message = doctor.wrong()["nftables"]
    assert "8080" in message and "no such element" in message and "1 more" in message
    doctor.run("--fix")
    one.check(config, result).silent()
    portmap.check(chained, above).silent()


def test_a_link_is_lost(doctor: Doctor, endpoint: MakeEndpoint) -> None:
    """A container without its link is cut off, which only its end mends."""
    one, other = endpoint(), endpoint()
    one.add(NETWORK)
    other.add(NETWORK)
    (name,) = [each["ifname"] for each in HOST.query("link") if one.container_id in str(each)]
    HOST.ip("link", "delete", name)
    assert doctor.wrong().keys() == {f"blue {name}"}
    doctor.run("--fix", code=1)
    one.delete(NETWORK)
    doctor.run()


def test_fifos_are_not_waited_for(doctor: Doctor, endpoint: MakeEndpoint, tmp_path: Path) -> None:
    """What is no file is no state and no network."""
    endpoint().add(NETWORK)
    results = Path("/var/lib/cni/results")
    results.mkdir()
    for path in (results / "x", RECORDS / "x:eth0", cni.LEASES / "blue/10.1.0.99"):
        os.mkfifo(path)
    assert doctor.wrong().keys() == {str(RECORDS / "x:eth0")}
    os.mkfifo(tmp_path / "fifo.conflist")
    assert "not a file" in doctor.wrong()[str(tmp_path / "fifo.conflist")]


def test_a_network_without_a_file(doctor: Doctor, endpoint: MakeEndpoint, tmp_path: Path) -> None:
    """What is left of a network that nobody knows is named, and left to the operator."""
    one = endpoint()
    one.add(NETWORK)
    lose(one)
    (tmp_path / "blue.conflist").unlink()
    found = {each["subject"]: each for each in doctor.findings("--fix", code=1)}
    record = found[str(RECORDS / f"{one.container_id}:eth0")]
    assert not record["fixable"] and "by hand" in record["advice"]
    assert "ip link delete blue0" in found["blue0"]["advice"]
    assert cni.leases()


def test_forwarding(doctor: Doctor, endpoint: MakeEndpoint) -> None:
    """Forwarding that somebody switched off is an error where containers need it."""
    HOST.run(["sysctl", "-w", "net.ipv4.ip_forward=0"])
    doctor.run()
    one = endpoint()
    one.add(NETWORK)
    HOST.run(["sysctl", "-w", "net.ipv4.ip_forward=0"])
    assert "reach nothing outside" in doctor.wrong()["net.ipv4.ip_forward"]
    assert doctor.findings("--fix")[0] == {"mended": "set net.ipv4.ip_forward to 1"}
    assert HOST.sysctl("ipv4", "ip_forward") == "1"


def test_executables(executable: Callable[[str], Path], tmp_path: Path) -> None:
    """Executables that are missing, cannot be run, are others', or of another version."""
    for name, content in {
        "bridge": "#!/bin/sh\n# cnm_core\necho 'CNI bridge plugin v0.0.9' >&2\n",
        "host-local": "#!/bin/sh\nexit 9\n",
        "loopback": "#!/bin/sh\n# cnm_core\nexit 9\n",
        "portmap": "",
    }.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "portmap").chmod(0o644)
    doctor = Doctor(executable("cnm"), tmp_path, str(tmp_path))
    found = {each["subject"]: each for each in doctor.findings(code=1)}
    said = {name: (found[name]["status"], found[name]["message"]) for name in found}
    assert said["bridge"][0] == "warning" and "of version 0.0.9" in said["bridge"][1]
    assert said["host-local"] == ("ok", f"{tmp_path}/host-local is another project's")
    assert said["loopback"] == ("error", f"{tmp_path}/loopback does not run: exit code 9")
    assert said["portmap"] == ("error", f"{tmp_path}/portmap is not executable")
    assert said["static"] == ("warning", f"in no directory of {tmp_path}")
    mended = doctor.findings("--fix", code=1)[0]["mended"]
    assert mended == f"made {tmp_path}/portmap executable"
    assert os.access(tmp_path / "portmap", os.X_OK)


def test_damaged_network(doctor: Doctor, tmp_path: Path) -> None:
    """What is wrong with a network's file is said with its place."""
    file = tmp_path / "red.conflist"
    file.write_text('{"cniVersion": "1.1.0",\n "name": }')
    assert doctor.wrong() == {f"{file}:2:10": "is not JSON: expected a value"}


def test_for_people(doctor: Doctor, endpoint: MakeEndpoint) -> None:
    """One line for each finding, and one on stderr that sums up."""
    one = endpoint()
    one.add(NETWORK)
    lose(one)
    done = doctor.run(code=1)
    assert done.stderr == "cnm: 2 things are wrong; cnm doctor --fix mends 2 of them\n"
    record, address = (line for line in done.stdout.splitlines() if line.startswith("error"))
    assert "address of" in address
    assert record.startswith(f"error   state     {RECORDS}/{one.container_id}:eth0: ")


def test_modules(tmp_path: Path) -> None:
    """Nothing is tried that would have the kernel load a module."""
    loaded, tree = tmp_path / "loaded", tmp_path / "tree"
    (loaded / "bridge").mkdir(parents=True)
    tree.mkdir()
    (tree / "modules.builtin").write_text("kernel/drivers/net/veth.ko\n")
    (tree / "modules.dep").write_text("kernel/drivers/net/vlan/8021q.ko.xz: kernel/x.ko\n")
    modules = Modules(loaded, tree)
    modules.modular = True
    assert modules.state(("bridge", "veth")) == ""
    assert modules.state(("veth", "8021q")) == "loadable: 8021q"
    assert modules.state(("veth", "wireguard")) == "missing: wireguard"
    assert modules.state(("8021q", "wireguard")) == "missing: wireguard"
    elsewhere = Modules(loaded, tmp_path / "nothing")
    elsewhere.modular = True
    assert elsewhere.state(("veth",)).startswith("unknown: module veth is not loaded")
    elsewhere.modular = False
    assert elsewhere.state(("veth",)) == ""
