"""Another version is installed while runtimes call the plugins: no call notices."""

import itertools
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import cni
from tests.cni import Config, Endpoint
from tests.faults.crowd import Held
from tests.faults.test_kills import published
from tests.hosts import Host, cluster
from tests.iproute import HOST, Netns, Snapshot

ROOT = Path(__file__).parent.parent.parent
ENDPOINTS = 50  # or more, until others were installed meanwhile
MOST_ENDPOINTS = 1000
INSTALLATIONS = 4
WORKERS = 4

TakeSnapshot = Callable[..., Snapshot]


@pytest.fixture
def versions(cni_bin: Path, tmp_path: Path) -> list[Path]:
    """Releases with the executables under test; what follows an ELF file changes only its sum."""
    made = []
    for number in range(2):
        release = tmp_path / f"release{number}"
        (release / "bin").mkdir(parents=True)
        first = release / "bin/bridge"
        shutil.copy(cni_bin / "bridge", first)
        with first.open("ab") as file:
            file.write(b"version %d\n" % number)
        (release / "bin/host-local").hardlink_to(first)
        (release / "cnm-agent.service").write_text("# a template\n")
        made.append(release)
    return made


def install(variables: dict[str, str]) -> None:
    """Run the script that `make install` and releases have."""
    subprocess.run(
        [ROOT / "deploy/install.sh", "install"],
        env={"PATH": os.environ["PATH"], **variables},
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=cni.PATIENCE,
    )


class Installer:
    """`install.sh`, one version after the other, as long as there is something going on."""

    def __init__(self, versions: list[Path], directory: Path) -> None:
        self.directory = directory
        self.installed = 0
        self._versions = itertools.cycle(versions)

    def install(self) -> None:
        """Install the next version."""
        variables = {"SOURCE": str(next(self._versions)), "CNI_BIN": str(self.directory)}
        install(variables | {"PREFIX": ""})
        self.installed += 1

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Install again and again meanwhile."""
        ended = threading.Event()

        def work() -> None:
            while not ended.is_set():
                self.install()

        with ThreadPoolExecutor(1) as threads:
            working = threads.submit(work)
            try:
                yield
            finally:
                ended.set()
            working.result()


def test_install_while_in_use(
    versions: list[Path],
    netns: Callable[[], Netns],
    snapshot: TakeSnapshot,
    config: Config,
    tmp_path: Path,
) -> None:
    """Attachments come and go, no call fails, and each call is a whole file's."""
    installer = Installer(versions, tmp_path / "bin")
    installer.install()
    sandboxes = [netns() for _ in range(WORKERS)]
    path = str(installer.directory)
    binary = installer.directory / "bridge"
    first = Endpoint(binary, path, "first", sandboxes[0])
    first.add(published(config, 8080))
    first.delete(config)
    before = snapshot(*sandboxes)
    held = Held()

    def live(of: int) -> None:
        for number in range(of, MOST_ENDPOINTS, WORKERS):
            if number >= ENDPOINTS and installer.installed >= INSTALLATIONS:
                break
            eth0 = Endpoint(binary, path, f"c{number}", sandboxes[of])
            own = published(config, 9000 + number)
            result = eth0.add(own)
            held.take(eth0, cni.addresses(result))
            eth0.check(own, result).silent()
            held.give_back(eth0)
            eth0.delete(own, result)

    with installer.busy(), ThreadPoolExecutor(WORKERS) as threads:
        for life in [threads.submit(live, of) for of in range(WORKERS)]:
            life.result()
    assert installer.installed >= INSTALLATIONS
    assert not HOST.ports("blue0")
    assert snapshot(*sandboxes) == before


@pytest.fixture
def hosts(node: None, cni_bin: Path, tmp_path: Path) -> Iterator[list[Host]]:
    """Two hosts with a network of their cluster; the second one's agent is `installed`."""
    with cluster(2, tmp_path, cni_bin) as (found, _):
        found[1].bin = tmp_path / "prefix/bin"
        yield found


def test_agent_of_before(hosts: list[Host], cni_bin: Path, tmp_path: Path) -> None:
    """An agent goes on with its work until it is restarted, though its files are another's now."""
    first, second = hosts
    shutil.copytree(cni_bin.parent, tmp_path / "prefix", symlinks=True, copy_function=os.link)
    second.start_agent()
    other = tmp_path / "other"
    (other / "lib/cnm").mkdir(parents=True)
    shutil.copy("/bin/true", other / "lib/cnm/cnm")
    (other / "bin").mkdir()
    (other / "bin/cnm").symlink_to("../lib/cnm/cnm")
    shutil.copy("/bin/true", other / "bin/bridge")
    (other / "cnm-agent.service").write_text("# a template\n")
    variables = {"SOURCE": str(other), "CNI_BIN": str(tmp_path / "plugins")}
    install(variables | {"PREFIX": str(tmp_path / "prefix")})
    assert subprocess.run([second.bin / "cnm", "--version"], check=True).returncode == 0
    cnm = first.cnm()
    cnm.run("network", "create", "--driver", "overlay", "--subnet", "10.7.0.0/24", "blue")
    second.await_event("conflist-written")
    cnm.run("network", "rm", "blue")
    second.await_event("conflist-removed")
    assert second.stop_agent() == 0
    assert "Traceback" not in second.log.read_text()
