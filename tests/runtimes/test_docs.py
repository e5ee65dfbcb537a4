"""What the documentation says, done: its commands in their order, its examples with a runtime."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cnm_core
from tests import cni
from tests.iproute import HOST, Netns
from tests.remote_ipam import Driver

ROOT = Path(cnm_core.__file__).parent.parent
GETTING_STARTED = "docs/getting-started.md"
MIGRATION = "docs/migration.md"
PAGES = ("README.md", "docs/cli.md", "docs/install.md")
EXAMPLES = [
    page for page in sorted((ROOT / "docs/reference").glob("*.md")) if "```json" in page.read_text()
]
WALKTHROUGH = "docs/overlay-walkthrough.md"
PATIENCE = 600  # seconds
# Commands that are not for a sandbox without network, and for a test among others.
LEFT_OUT = ("apt-get ", "make demo", "make test")
# Directories that the commands write to, each empty in the sandbox.
WRITTEN = ("/opt", "/usr/local", "/etc/cni", "/run", "/var/lib/cni", "/var/lib/cnm", "/tmp/root")

UPLINK = """\
ip link set lo up
ip link add eth0 up type veth peer name outside
ip link set outside up
ip addr add 192.0.2.2/24 dev eth0
"""


def commands_of(page: str) -> str:
    """The commands of a page's blocks, as one script that says where it fails."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).splitlines()
    return "\n".join(line for line in lines if not line.startswith(LEFT_OUT))


def in_sandbox(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script as root of an empty host: a link, no way out, and no file of it stays."""
    mounts = "\n".join(f"mount -t tmpfs -o mode=0755 tmpfs {each}" for each in WRITTEN)
    for each in WRITTEN:
        # It stays: to remove it would unmount what another test has there at the same time.
        Path(each).mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        ["unshare", "--net", "--mount", "--propagation", "private", "bash"],
        input=f"set -eu\n{mounts}\n{UPLINK}cd {ROOT}\nset -x\n{script}\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        env={"PATH": cni.SEARCH_PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"},
    )


@pytest.mark.parametrize("page", PAGES)
def test_commands(page: str) -> None:
    """Each command of a page works, once installed, where those before it were run."""
    done = in_sandbox(f"make install\n{commands_of(page)}")
    assert done.returncode == 0, f"{page}: {done.stdout}{done.stderr}"


def test_getting_started() -> None:
    """Whoever goes the whole way has nothing left of the network."""
    left = "ip -o link; find /etc/cni/net.d /run/cnm /var/lib/cni -name '*blue*'; nft list ruleset"
    done = in_sandbox(f"{commands_of(GETTING_STARTED)}\nset +x\necho LEFT; {left}")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert "1 received" in done.stdout
    link, *others = done.stdout.partition("LEFT\n")[2].splitlines()
    assert link.startswith("1: lo:")
    assert not [line for line in others if "blue" in line or "10.88.0" in line], others


def test_walkthrough() -> None:
    """Three hosts, from the first link to the last; etcd and agents end in any case."""
    processes = "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT"
    # The kernel takes a namespace's links some time after its name (cleanup_net in
    # net/core/net_namespace.c).
    gone = "for _ in {1..300}; do ip -o link | grep -q ': port' || break; sleep 0.1; done"
    left = f"{gone}; echo LEFT; ip -o link; ls /run/netns"
    done = in_sandbox(f"{processes}\n{commands_of(WALKTHROUGH)}\nset +x\n{left}")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert done.stdout.count("1 received") == 6 and done.stdout.count("\nnot now\n") == 1
    *_, left_links = done.stdout.partition("LEFT\n")
    assert {line.split(": ")[1].partition("@")[0] for line in left_links.splitlines()} == {
        "lo", "eth0", "outside",
    }  # fmt: skip


def test_migration() -> None:
    """Whoever goes to us and back has the Go plugins as they were, and no rule of either."""
    left = "diff -r /usr/lib/cni /opt/cni/bin && ls -A /opt/cni/bin; iptables-save; nft list tables"
    done = in_sandbox(f"{commands_of(MIGRATION)}\nset +x\necho LEFT; {left}")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert "1 received" in done.stdout
    rest = done.stdout.partition("LEFT\n")[2]
    assert "bridge" in rest and "dhcp" in rest
    assert not [word for word in ("overlay", ".cnm", "CNI-", " cnm") if word in rest], rest


@pytest.fixture
def docker_ipam(docker_plugins: Path, tmp_path: Path) -> Iterator[None]:
    """An IPAM driver of the name that the example for remote has."""
    driver = Driver(f"{docker_plugins}/custom.sock", tmp_path / "custom", ())
    driver.start()
    yield
    driver.stop()


def _has_ipvlan() -> bool:
    """Whether the kernel makes such a link."""
    command = ["ip", "link", "add", "trial", "link", "eth0", "type", "ipvlan"]
    made = subprocess.run(command, capture_output=True, check=False).returncode == 0
    if made:
        HOST.ip("link", "delete", "trial")
    return made


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.stem)
def test_example(
    page: Path,
    executable: Callable[[str], Path],
    netns: Callable[[], Netns],
    docker_ipam: None,
    tmp_path: Path,
) -> None:
    """The example of each plugin's page has no problem, and works from ADD to DEL."""
    (text,) = re.findall(r"^```json\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "blue.conflist").write_text(text)
    plugins = executable("bridge").parent
    environment = {
        "PATH": f"{ROOT / '.tools/bin'}:{cni.SEARCH_PATH}",
        "CNI_PATH": str(plugins),
        "NETCONFPATH": str(tmp_path),
        "CAP_ARGS": json.dumps({"portMappings": [{"hostPort": 8080, "containerPort": 80}]}),
    }
    HOST.ip("link", "add", "eth0", "type", "veth", "peer", "name", "outside")
    HOST.ip("link", "set", "outside", "up")
    if page.stem == "ipvlan" and not _has_ipvlan():
        pytest.skip("this kernel has no ipvlan; make test-vm tries it in one that has")
    HOST.ip("addr", "add", "192.0.2.2/24", "dev", "eth0")
    HOST.ip("link", "set", "eth0", "up")
    sandbox = HOST if page.stem == "host" else netns()
    before = sandbox.links().keys()

    def run(*command: str | os.PathLike[str]) -> str:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done
        return done.stdout

    assert run(plugins / "cnm", "network", "validate", tmp_path / "blue.conflist") == ""
    result = json.loads(run("cnitool", "add", "blue", sandbox.path))
    assert all(address in sandbox.run(["ip", "addr"]) for address in cni.addresses(result))
    run("cnitool", "check", "blue", sandbox.path)
    run("cnitool", "del", "blue", sandbox.path)
    assert not cni.leases()
    assert sandbox.links().keys() == before
