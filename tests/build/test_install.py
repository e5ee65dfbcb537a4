"""deploy/install.sh: into a host's directories and out of them, killed or not."""

import hashlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests import cni

INSTALL = Path(__file__).parent.parent.parent / "deploy/install.sh"
SHELLS = {"dash": ["sh"], "busybox": ["busybox", "sh"]}
# Small ones: that the real ones are put in place so is tested by the pages of docs/.
NAMES = ("bridge", "host", "macvlan")


def content(version: str) -> str:
    """What our plugins of a version are."""
    return f"ours {version}\n" * 1000


class Node:
    """A host's directories, and a release to install there."""

    def __init__(self, directory: Path, shell: list[str]) -> None:
        self.shell = shell
        self.root = directory / "host"
        self.bin = self.root / "opt/cni/bin"
        self.release = directory / "release"
        self.bin.mkdir(parents=True)
        self.publish("1")

    def publish(self, version: str, names: tuple[str, ...] = NAMES) -> None:
        """Make another version of what is to be installed."""
        subprocess.run(["rm", "-rf", self.release], check=True)
        (self.release / "bin").mkdir(parents=True)
        (self.release / "lib/cnm").mkdir(parents=True)
        (self.release / "lib/cnm/cnm").write_text(version)
        (self.release / "cnm-agent.service").write_text(
            "# a template\nExecStart=@PREFIX@/bin/cnm\n"
        )
        (self.release / "bin/cnm").symlink_to("../lib/cnm/cnm")
        first, *others = (self.release / "bin" / name for name in names)
        first.write_text(content(version))
        for each in others:
            each.hardlink_to(first)

    def command(self, verb: str) -> list[str]:
        """A call of the script."""
        return [*self.shell, str(INSTALL), verb]

    def environment(self, **changes: str) -> dict[str, str]:
        """Its variables."""
        return {
            "PATH": os.environ["PATH"],
            "SOURCE": str(self.release),
            "DESTDIR": str(self.root),
            **changes,
        }

    def call(self, verb: str, **changes: str) -> "subprocess.CompletedProcess[str]":
        """Run it to its end."""
        return subprocess.run(
            self.command(verb),
            env=self.environment(**changes),
            capture_output=True,
            text=True,
            check=False,
            timeout=cni.PATIENCE,
        )

    def run(self, verb: str, **changes: str) -> None:
        """Run it, and it must succeed."""
        done = self.call(verb, **changes)
        assert done.returncode == 0, done

    def plugins(self) -> dict[str, str]:
        """What is where runtimes look."""
        return {each.name: each.read_text() for each in self.bin.iterdir() if each.is_file()}

    def files(self) -> set[str]:
        """Everything below the root that is no directory."""
        return {str(p.relative_to(self.root)) for p in self.root.rglob("*") if not p.is_dir()}


@pytest.fixture(params=SHELLS)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Node:
    """A host without any plugin, for each shell."""
    return Node(tmp_path, SHELLS[request.param])


def test_install(node: Node) -> None:
    """Plugins stay names of one file; the command is reached by its link; all is root's."""
    node.run("install")
    assert node.plugins() == dict.fromkeys(NAMES, content("1"))
    assert len({(node.bin / name).stat().st_ino for name in NAMES}) == 1
    assert all((node.bin / name).stat().st_mode & 0o7777 == 0o755 for name in NAMES)
    assert (node.root / "usr/local/bin/cnm").read_text() == "1"
    unit = node.root / "usr/local/lib/systemd/system/cnm-agent.service"
    assert unit.read_text() == "ExecStart=/usr/local/bin/cnm\n"
    node.run("check")
    node.run("uninstall")
    assert node.files() == set()


def test_without_the_command(node: Node) -> None:
    """An empty PREFIX leaves out what a node of Kubernetes does not need."""
    node.run("install", PREFIX="")
    assert not (node.root / "usr").exists()
    node.run("uninstall", PREFIX="")
    assert node.files() == set()


@pytest.mark.parametrize("path", ["bin/cnm", "lib/cnm/data"])
def test_a_command_of_others(node: Node, path: str) -> None:
    """Nothing is done where cnm would take the place of somebody else's."""
    theirs = node.root / "usr/local" / path
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    for verb, code in (("install", 1), ("uninstall", 0)):
        done = node.call(verb)
        assert done.returncode == code, done
        assert ("not ours" in done.stderr) == bool(code)
        assert node.files() == {f"usr/local/{path}"}
    node.run("install", PREFIX="/opt/cnm")
    node.run("uninstall", PREFIX="/opt/cnm")
    assert theirs.read_text() == "theirs"


def test_a_release_without_the_command(node: Node) -> None:
    """As the Debian package's directory is: it says so before anything is done."""
    subprocess.run(["rm", "-r", node.release / "lib"], check=True)
    assert "PREFIX=" in node.call("install").stderr
    assert node.files() == set()
    node.run("install", PREFIX="")


def test_masked(node: Node) -> None:
    """Whatever umask root has, all may look into the directories."""
    node.shell = ["sh", "-c", 'umask 077; exec "$@"', "sh", *node.shell]
    node.run("install")
    made = [each for each in (node.root / "usr").rglob("*") if each.is_dir()]
    assert made and all(each.stat().st_mode & 0o777 == 0o755 for each in made)


def test_upgrade(node: Node) -> None:
    """A new version replaces the old one, and what it has no longer goes."""
    node.run("install")
    node.publish("2", ("bridge", "overlay"))
    node.run("install")
    assert node.plugins() == dict.fromkeys(("bridge", "overlay"), content("2"))
    node.run("uninstall")
    assert node.files() == set()


def test_what_was_there_comes_back(node: Node) -> None:
    """Plugins of others that were replaced, even by two versions, and the rest untouched."""
    theirs = {"bridge": "Go's", "dhcp": "Go's dhcp"}
    for name, text in theirs.items():
        (node.bin / name).write_text(text)
    (node.bin / "macvlan").symlink_to("dhcp")
    node.run("install")
    assert node.plugins()["bridge"] == content("1")
    node.publish("2")
    node.run("install")
    assert node.plugins() == {"dhcp": "Go's dhcp", **dict.fromkeys(NAMES, content("2"))}
    node.run("uninstall")
    assert node.plugins() == {**theirs, "macvlan": "Go's dhcp"}
    assert (node.bin / "macvlan").is_symlink()


def test_what_others_put_there_later_stays(node: Node) -> None:
    """A plugin of ours that somebody replaced is not ours to remove, and is named."""
    node.run("install")
    (node.bin / "new").write_text("theirs")
    (node.bin / "new").rename(node.bin / "bridge")
    assert "bridge: FAILED" in node.call("check").stderr
    assert node.call("check").returncode == 1
    done = node.call("uninstall")
    assert done.returncode == 0 and "bridge: not ours, it stays" in done.stderr
    assert node.plugins() == {"bridge": "theirs"}


def test_uninstall_of_nothing(node: Node) -> None:
    """Nothing there is nothing to do, and nothing of others goes."""
    (node.bin / "bridge").write_text("theirs")
    (node.root / "usr/local/bin").mkdir(parents=True)
    (node.root / "usr/local/bin/cnm").write_text("theirs")
    before = node.files()
    node.run("uninstall")
    assert node.files() == before


@pytest.mark.parametrize("remove", [True, False])
def test_run(node: Node, remove: bool) -> None:
    """As a container does: until a signal, after which all goes if that was asked for."""
    environment = node.environment(CNM_REMOVE_ON_EXIT=str(remove).lower())
    with subprocess.Popen(node.command("run"), env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while not process.stdout.readline().endswith(b"usr/local/bin/cnm\n"):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(cni.PATIENCE) == 0
    assert bool(node.plugins()) is not remove
    assert not [each for each in node.files() if "/new." in each]


# Each of these commands of the script is one at which it is killed, before and after.
SHIM = """#!/bin/sh
count=$(cat {state}/count)
echo $((count + 1)) > {state}/count
[ "$count" != "$KILL_AT" ] || { kill -9 $PPID; exit 1; }
exec {real} "$@"
"""


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_killed(tmp_path: Path, verb: str) -> None:
    """At whichever command it is killed: no plugin is ever missing or a part, and again repairs."""
    shims = tmp_path / "shims"
    shims.mkdir()
    for name in ("mv", "ln", "rm", "cp", "cat"):
        real = Path("/bin") / name
        text = SHIM.replace("{state}", str(shims)).replace("{real}", str(real))
        (shims / name).write_text(text.replace("cat ", "/bin/cat ", 1))
        (shims / name).chmod(0o755)
    whole = {"theirs", content("1"), content("2")}
    ended = False
    number = 0
    while not ended:
        node = Node(tmp_path / str(number), ["sh"])
        (node.bin / "bridge").write_text("theirs")
        node.run("install")
        node.publish("2", ("bridge", "host"))
        (shims / "count").write_text("0\n")
        path = f"{shims}:{os.environ['PATH']}"
        done = node.call(verb, PATH=path, KILL_AT=str(number))
        ended = done.returncode == 0
        found = node.plugins()
        assert found["bridge"] in whole, number
        assert set(found.values()) <= whole, number
        node.run(verb)
        if verb == "install":
            assert node.plugins() == dict.fromkeys(("bridge", "host"), content("2")), number
            node.run("check")
            node.run("uninstall")
        assert node.files() == {"opt/cni/bin/bridge"}, number
        assert node.plugins() == {"bridge": "theirs"}, number
        number += 1
    assert number > 5


def test_checksums_are_of_the_files(node: Node) -> None:
    """The record is in the words of sha256sum."""
    node.run("install")
    digest = hashlib.sha256(content("1").encode()).hexdigest()
    lines = (node.bin / ".cnm/sums").read_text().splitlines()
    assert lines == [f"{digest}  {name}" for name in sorted(NAMES)]
