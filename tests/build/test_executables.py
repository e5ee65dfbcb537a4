"""The built executables: one static file under several names, which needs nothing beside it."""

import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from plugins import EXECUTABLES
from tests import cni
from tests.cni import Endpoint
from tests.iproute import HOST, Netns, Snapshot

PT_DYNAMIC, PT_INTERP = 2, 3
DEFECT = 999  # the code of a failure that nobody thought of

MakeNetns = Callable[[], Netns]
Wrap = Callable[[str], Path]


@pytest.fixture(params=EXECUTABLES)
def each(request: pytest.FixtureRequest, executable: Callable[[str], Path]) -> Path:
    """Every executable in turn."""
    return executable(request.param)


@pytest.fixture
def bridge(executable: Callable[[str], Path]) -> Path:
    """The bridge plugin."""
    return executable("bridge")


@pytest.fixture
def wrap(tmp_path: Path) -> Wrap:
    """Makes an executable that runs a shell command in its place."""

    def make(command: str) -> Path:
        script = tmp_path / "wrapped"
        script.write_text(f"#!/bin/sh -e\n{command}\n")
        script.chmod(0o700)
        return script

    return make


def _about(binary: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run an executable as a person would, without any variable."""
    options = {"env": {"PATH": cni.SEARCH_PATH}, **options}
    return subprocess.run([binary], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


def test_static(each: Path) -> None:
    """No program header asks for a dynamic linker or for shared libraries."""
    image = each.read_bytes()
    assert image[:5] == b"\x7fELF\x02"
    (offset,) = struct.unpack_from("<Q", image, 0x20)
    size, count = struct.unpack_from("<HH", image, 0x36)
    kinds = {struct.unpack_from("<I", image, offset + size * index)[0] for index in range(count)}
    assert not kinds & {PT_DYNAMIC, PT_INTERP}


def test_one_file(cni_bin: Path) -> None:
    """All plugins are names of one file; beside them is the command line, and nothing else."""
    assert {path.name for path in cni_bin.iterdir()} == {*EXECUTABLES, "cnm"}
    assert len({(cni_bin / name).stat().st_ino for name in EXECUTABLES}) == 1


def test_no_path_of_the_build(each: Path, request: pytest.FixtureRequest) -> None:
    """The file does not tell where it was built."""
    assert bytes(request.config.rootpath) not in each.read_bytes()


def test_called_by_path(each: Path) -> None:
    """An executable is what its own name says."""
    assert f"CNI {each.name} plugin" in _about(each).stderr


def test_called_by_search(each: Path) -> None:
    """Found in PATH, with no directory in its name."""
    done = _about(each.name, env={"PATH": str(each.parent)})
    assert f"CNI {each.name} plugin" in done.stderr


def test_called_by_relative_path(each: Path) -> None:
    """The current directory may be anywhere."""
    done = _about(f"./{each.name}", cwd=each.parent)
    assert f"CNI {each.name} plugin" in done.stderr


def test_called_through_a_link(each: Path, tmp_path: Path) -> None:
    """A symbolic link decides by its own name, whichever name it leads to."""
    for target in (each.parent / name for name in EXECUTABLES):
        link = tmp_path / target.name / each.name
        link.parent.mkdir()
        link.symlink_to(target)
        assert f"CNI {each.name} plugin" in _about(link).stderr


def test_copied_alone(each: Path, tmp_path: Path) -> None:
    """A copy in another directory is complete."""
    copy = Path(shutil.copy(each, tmp_path))
    assert cni.call(copy, "VERSION", {"cniVersion": "1.0.0"}).result()["cniVersion"] == "1.0.0"


@pytest.mark.parametrize("name", ["unknown", "bridge2", "", "brücke", os.fsdecode(b"br\xff")])
def test_unknown_name(bridge: Path, name: str) -> None:
    """Called by a name that is no plugin's, it says so, and which names would do."""
    done = subprocess.run(
        [f"/opt/{name}"], executable=bridge, capture_output=True, check=False, timeout=cni.PATIENCE
    )
    assert done.returncode != 0
    assert done.stdout == b""
    assert b"is no plugin" in done.stderr
    assert all(known.encode() in done.stderr for known in EXECUTABLES)


def test_environment_of_python(bridge: Path, tmp_path: Path) -> None:
    """No variable of Python's and no file nearby changes what runs."""
    (tmp_path / "posix.py").write_text("raise SystemExit(7)")
    (tmp_path / "cnm_core").mkdir()
    (tmp_path / "cnm_core/__init__.py").write_text("raise SystemExit(7)")
    variables = {
        "PYTHONHOME": "/nonexistent",
        "PYTHONPATH": str(tmp_path),
        "PYTHONVERBOSE": "1",
        "PYTHONINSPECT": "1",
        "LC_ALL": "xx_XX",
        "MALLOC_ARENA_MAX": "x",
    }
    done = _about(bridge, env=variables, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == _about(bridge).stderr


@pytest.fixture
def empty_root(cni_bin: Path, tmp_path: Path) -> Path:
    """A root directory with the executables in /bin, and nothing else.

    `make test-older` has an old Debian in the place of nothing.
    """
    root = Path(os.environ.get("CNM_ROOT", tmp_path / "root"))
    shutil.copytree(cni_bin, root / "bin", dirs_exist_ok=True)
    for directory in ("proc", "sys", "run/netns"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    return root


@pytest.mark.parametrize("name", EXECUTABLES)
def test_version_in_an_empty_root(empty_root: Path, wrap: Wrap, name: str) -> None:
    """Without any library, device or mount."""
    answer = cni.call(wrap(f"exec chroot {empty_root} /bin/{name}"), "VERSION").result()
    assert answer["supportedVersions"] == list(cni.VERSIONS)


def test_endpoint_in_an_empty_root(empty_root: Path, wrap: Wrap, netns: MakeNetns) -> None:
    """With /proc and /sys, a whole life of an endpoint."""
    sandbox = netns()
    binary = wrap(
        f"""
        exec unshare --mount sh -ec '
            mount -t proc proc {empty_root}/proc
            mount -t sysfs sysfs {empty_root}/sys
            mount --rbind /run/netns {empty_root}/run/netns
            exec chroot {empty_root} /bin/bridge'
        """
    )
    eth0 = Endpoint(binary, "/bin", "c1", sandbox)
    config = cni.network(ipam=cni.host_local("10.1.0.0/24", "fd00:1::/64"))
    result = eth0.add(config)
    assert sandbox.addresses("eth0") == [ip["address"] for ip in result["ips"]]
    networks = empty_root / "var/lib/cni/networks"
    assert set(cni.leases(directory=networks)) == {"10.1.0.2", "fd00:1::2"}
    eth0.check(config, result).silent()
    eth0.call("STATUS", config).silent()
    eth0.call("GC", cni.collected(config, eth0)).silent()
    eth0.delete(config, result)
    assert "eth0" not in sandbox.links()
    assert HOST.ports("blue0") == []
    assert not cni.leases(directory=networks)


# From what lets nothing start to what is enough.
LIMITS = [
    *[f"--nofile={count}" for count in range(10)],
    *[f"--as={size << 19}" for size in range(16, 26)],
    *[f"--data={size << 18}" for size in range(0, 20, 2)],
    *[f"--stack={size << 10}" for size in (0, 16, 32, 64)],
    *[f"--fsize={size}" for size in (0, 8, 64)],
]


@pytest.mark.parametrize("limit", LIMITS)
def test_starved(
    bridge: Path,
    cni_bin: Path,
    wrap: Wrap,
    netns: MakeNetns,
    snapshot: Callable[..., Snapshot],
    limit: str,
) -> None:
    """Whatever is lacking: a result, an error object, or nothing on stdout; DEL cleans up."""
    eth0 = Endpoint(bridge, str(cni_bin), "c1", netns())
    config = cni.network()
    Endpoint(bridge, str(cni_bin), "c2", netns()).add(config)
    before = snapshot(eth0.netns)
    starved = Endpoint(wrap(f"exec prlimit {limit} {bridge}"), str(cni_bin), "c1", eth0.netns)
    outcome = starved.call("ADD", config)
    if outcome.code == 0:
        assert outcome.result()["ips"]
    elif outcome.stdout and outcome.error()["code"] == DEFECT:
        assert "please report" in outcome.json["details"]
    eth0.delete(config)
    assert snapshot(eth0.netns) == before


@pytest.mark.parametrize(
    ("command", "closed", "succeeds"),
    [
        ("VERSION", ">&-", False),
        ("VERSION", "2>&-", True),
        ("ADD", ">&-", False),
        ("ADD", "2>&-", True),
        ("DEL", ">&-", True),
        ("DEL", "2>&-", True),
    ],
)
def test_closed_files(
    bridge: Path,
    cni_bin: Path,
    wrap: Wrap,
    netns: MakeNetns,
    command: str,
    closed: str,
    succeeds: bool,
) -> None:
    """What is opened in the place of stdout or stderr is not taken for it."""
    eth0 = Endpoint(wrap(f"exec {bridge} {closed}"), str(cni_bin), "c1", netns())
    # Enough for DEL, which has something to say of it.
    config = cni.network(**({"dns": 5} if command == "DEL" else {}))
    outcome = eth0.call(command, config)
    assert (outcome.code == 0) == succeeds, outcome
    assert outcome.stdout == b"" or isinstance(outcome.json, dict)


def test_nobody_reads_stderr(bridge: Path, cni_bin: Path, netns: MakeNetns) -> None:
    """DEL goes on where the pipe that it would complain to is broken."""
    eth0 = Endpoint(bridge, str(cni_bin), "c1", netns())
    eth0.add(cni.network())
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [bridge],
        input=cni.encoded(cni.network(dns=5)),
        stderr=writer,
        check=False,
        timeout=cni.PATIENCE,
        env=cni.environment(
            "DEL", container_id="c1", netns=eth0.netns.path, ifname="eth0", path=str(cni_bin)
        ),
    )
    os.close(writer)
    assert done.returncode == 0
    assert not cni.leases()
    assert "eth0" not in eth0.netns.links()


def test_version(each: Path) -> None:
    """Every one of them answers VERSION."""
    answer = cni.call(each, "VERSION", {"cniVersion": "1.0.0"}).result()
    assert answer == {"cniVersion": "1.0.0", "supportedVersions": list(cni.VERSIONS)}
