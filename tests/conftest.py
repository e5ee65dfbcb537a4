"""A node of its own for each test: network and mount namespaces, empty state directories."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import cni, iproute
from tests.commands import Cnm
from tests.iproute import Netns, Snapshot

MS_REC, MS_PRIVATE = 0x4000, 1 << 18
STATE_DIRECTORIES = (Path("/run/cnm"), Path("/var/lib/cni"), Path("/var/lib/cnm"))
NETNS_DIRECTORY = Path("/run/netns")
RUNTIME_DIRECTORIES = (Path("/run/runc"), Path("/run/containerd"), Path("/run/libpod"))
DOCKER_DIRECTORIES = (Path("/run/docker"), Path("/etc/docker"), Path("/usr/lib/docker"))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cni")
    group.addoption("--cni-bin", type=Path, help="directory of plugins; default dist/cnm/bin")
    group.addoption("--plugin", help="plugins of the conformance tests, with commas; default all")
    group.addoption("--cni-version", default=cni.NEWEST, help="newest version of those plugins")
    group.addoption("--older", type=Path, help="directory of an older version, beside ours")
    group.addoption("--containerd", type=Path, help="directory of containerd; default /usr/bin")
    group.addoption("--report", type=Path, help="conformance: write REPORT.md and REPORT.json")


def pytest_configure(config: pytest.Config) -> None:
    """Leave the machine's namespaces, before any test touches a link or a mount."""
    if os.geteuid() != 0:
        pytest.exit("tests make network namespaces and mounts: run them as root", returncode=4)
    flags = iproute.CLONE_NEWNET | iproute.CLONE_NEWNS
    iproute.checked(iproute.libc.unshare(flags))
    # Or else what is unmounted here would be unmounted on the machine.
    _mount(b"none", b"/", None, MS_REC | MS_PRIVATE)
    private = (*RUNTIME_DIRECTORIES, *STATE_DIRECTORIES, *DOCKER_DIRECTORIES, NETNS_DIRECTORY)
    config.addinivalue_line("markers", "needs(*what): what a plugin must have for this test")
    config.addinivalue_line("markers", "since(version): of CNI, that this test's subject has")
    for directory in private:
        directory.mkdir(parents=True, exist_ok=True)
        _mount(b"tmpfs", bytes(directory), b"tmpfs", 0)
    iproute.HOST.ip("link", "set", "lo", "up")


def _mount(source: bytes, target: bytes, kind: bytes | None, flags: int) -> None:
    iproute.checked(iproute.libc.mount(source, target, kind, flags, None))


@pytest.fixture
def node() -> Iterator[None]:
    """An empty host: a new network namespace, with loopback up, and no state."""
    iproute.checked(iproute.libc.unshare(iproute.CLONE_NEWNET))
    iproute.HOST.ip("link", "set", "lo", "up")
    yield
    for directory in STATE_DIRECTORIES:
        for entry in directory.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


@pytest.fixture
def docker_plugins(node: None) -> Iterator[Path]:
    """The directory of Docker plugins' sockets, which only this process sees; beside it two
    of files that name plugins.
    """
    directories = [each / "plugins" for each in DOCKER_DIRECTORIES]
    for directory in directories:
        directory.mkdir()
    yield directories[0]
    for directory in directories:
        shutil.rmtree(directory)


_numbers = itertools.count(1)


@pytest.fixture
def netns(node: None) -> Iterator[Callable[[], Netns]]:
    """Makes named network namespaces with loopback up."""
    made: list[Netns] = []

    def make() -> Netns:
        new = Netns(f"sandbox-{next(_numbers)}")
        iproute.run("ip", "netns", "add", new.name)
        made.append(new)
        new.ip("link", "set", "lo", "up")
        return new

    try:
        yield make
    finally:
        for each in made:
            if (NETNS_DIRECTORY / each.name).exists():
                iproute.run("ip", "netns", "delete", each.name)


@pytest.fixture
def cni_bin(request: pytest.FixtureRequest, node: None) -> Path:
    """The directory of the plugins under test."""
    chosen: Path | None = request.config.getoption("--cni-bin")
    return (chosen or request.config.rootpath / "dist/cnm/bin").absolute()


@pytest.fixture
def executable(cni_bin: Path) -> Callable[[str], Path]:
    """Finds a plugin under test by its name."""

    def find(name: str) -> Path:
        path = cni_bin / name
        if not path.exists():
            pytest.fail(f"{path} is missing: run make build")
        return path

    return find


@pytest.fixture
def cnm(executable: Callable[[str], Path], cni_bin: Path, tmp_path: Path) -> Cnm:
    """The built command line, with no network yet."""
    networks, pools, agent = (tmp_path / name for name in ("net.d", "pools.json", "agent.json"))
    return Cnm(executable("cnm"), networks, str(cni_bin), pools, agent)


@pytest.fixture
def plugin() -> str:
    """The name of the plugin under test."""
    return "bridge"


@pytest.fixture
def binary(executable: Callable[[str], Path], plugin: str) -> Path:
    """The executable of that plugin."""
    return executable(plugin)


@pytest.fixture
def version(request: pytest.FixtureRequest) -> str:
    """The newest version of the specification that the plugins are to be tried with."""
    name: str = request.config.getoption("--cni-version")
    return name


@pytest.fixture
def config(plugin: str, version: str) -> cni.Config:
    """A network of the plugin under test."""
    return cni.network(plugin, version)


@pytest.fixture
def call(binary: Path, cni_bin: Path) -> Callable[..., cni.Outcome]:
    """Runs the plugin under test, with nothing but CNI_COMMAND and CNI_PATH set by itself."""

    def run(command: str | None, config: cni.Config | bytes = b"", **changes: Any) -> cni.Outcome:
        return cni.call(binary, command, config, **{"path": str(cni_bin), **changes})

    return run


@pytest.fixture
def endpoint(binary: Path, cni_bin: Path, netns: Callable[[], Netns]) -> Callable[[], cni.Endpoint]:
    """Makes an endpoint-to-be of the plugin under test, with a sandbox of its own."""

    def make() -> cni.Endpoint:
        sandbox = netns()
        return cni.Endpoint(binary, str(cni_bin), f"id-{sandbox.name}", sandbox)

    return make


@pytest.fixture
def snapshot(node: None) -> Callable[..., Snapshot]:
    """Takes a picture of the host, of given namespaces and of the state directories."""

    def take(*namespaces: Netns, directories: tuple[Path, ...] = ()) -> Snapshot:
        return iproute.snapshot(*namespaces, directories=(*STATE_DIRECTORIES, *directories))

    return take
