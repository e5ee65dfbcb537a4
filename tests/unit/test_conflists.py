"""Reading and writing a directory of networks, in a directory of the test's own."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cnm_core.cli.conflists import Conflist, Directory, read
from cnm_core.cli.main import IN_THE_WAY, NOT_FOUND, Failure

BRIDGE: dict[str, Any] = {
    "type": "bridge",
    "isGateway": True,
    "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]],
    },
}


def document(name: str = "blue", *plugins: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": name, "plugins": list(plugins or (BRIDGE,)), **members}


def put(directory: Path, file: str, content: dict[str, Any] | str) -> Path:
    path = directory / file
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_lists_and_single_plugins(tmp_path: Path) -> None:
    """All three suffixes are networks, sorted by name; other files are not looked at."""
    put(tmp_path, "10-red.conflist", document("red"))
    put(tmp_path, "20-green.conf", {"cniVersion": "0.4.0", "name": "green", "type": "macvlan"})
    put(tmp_path, "30-blue.json", {"name": "blue", "type": "ipvlan"})
    put(tmp_path, "notes.txt", "no network")
    put(tmp_path, ".40-half.conflist.new", "{")
    networks, damaged = Directory(tmp_path).read()
    assert [(each.name, each.driver, each.version) for each in networks] == [
        ("blue", "ipvlan", ""),
        ("green", "macvlan", "0.4.0"),
        ("red", "bridge", "1.0.0"),
    ]
    assert not damaged


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not an object"),
        ('{"name": "blue"}', "plugins: must be a list"),
        ('{"name": "blue", "plugins": []}', "plugins: must be a list"),
        ('{"name": "blue", "plugins": {"type": "bridge"}}', "plugins: must be a list"),
        ('{"name": "blue", "plugins": [7]}', "plugins[0]: must be an object"),
        ('{"name": "blue", "plugins": [{}]}', "plugins[0].type: is missing"),
        ('{"plugins": [{"type": "bridge"}]}', "name: is missing"),
        ('{"name": "../x", "plugins": [{"type": "bridge"}]}', "name: must begin with"),
        ('{"name": "x", "cniVersion": 1, "plugins": [{"type": "a"}]}', "cniVersion: must be"),
    ],
)
def test_damaged_files_do_not_hide_others(tmp_path: Path, content: str, problem: str) -> None:
    """A file that makes no sense is reported with its path and what is wrong."""
    broken = put(tmp_path, "10-broken.conflist", content)
    put(tmp_path, "20-red.conflist", document("red"))
    networks, (damaged,) = Directory(tmp_path).read()
    assert [each.name for each in networks] == ["red"]
    assert damaged.path == broken
    assert damaged.problem.startswith(problem)


def test_unreadable_paths(tmp_path: Path) -> None:
    """Directories and links to nowhere are damaged or gone, and stop nothing."""
    (tmp_path / "a.conflist").mkdir()
    (tmp_path / "b.conflist").symlink_to("nowhere")
    networks, damaged = Directory(tmp_path).read()
    assert not networks
    assert [(each.path.name, each.problem) for each in damaged] == [("a.conflist", "is not a file")]
    assert Directory(tmp_path / "none").read() == ([], [])


def test_what_a_file_says(tmp_path: Path) -> None:
    """Subnets, labels, options and the rest of a network of ours."""
    ours = {
        "created": "2026-01-02T03:04:05.000006Z",
        "labels": {"tier": "web"},
        "options": {"parent": "eth0"},
        "internal": True,
    }
    network = read(put(tmp_path, "x.conflist", document(cnm=ours)))
    assert network.subnets == ("10.1.0.0/24", "fd00::/64")
    assert network.has_version(4) and network.has_version(6)
    assert (network.owner, network.is_ours, network.internal) == ("cnm", True, True)
    assert network.labels == {"tier": "web"}
    assert network.options == {"parent": "eth0"}
    assert network.created == ours["created"]
    assert network.id == "16477688c0e00699c6cfa4497a3612d7e83c532062b64b250fed8908128ed548"


def test_files_of_other_tools(tmp_path: Path) -> None:
    """nerdctl's and podman's marks; a file without any has no owner."""
    nerdctl = document("a", nerdctlID="f00", nerdctlLabels={"x": "1"})
    podman = document("b", {**BRIDGE, "isGateway": False}, args={"podman_labels": {"y": "2"}})
    hand = document("c", {"type": "portmap"}, {"type": "ptp", "ipam": {"subnet": "10.9.8.7/24"}})
    found = [
        read(put(tmp_path, f"{index}.conflist", each))
        for index, each in enumerate((nerdctl, podman, hand))
    ]
    assert [each.owner for each in found] == ["nerdctl", "podman", ""]
    assert [each.labels for each in found] == [{"x": "1"}, {"y": "2"}, {}]
    assert [each.internal for each in found] == [False, True, False]
    assert (found[2].driver, found[2].subnets) == ("ptp", ("10.9.8.0/24",))
    assert found[2].created.endswith("Z")


def test_find(tmp_path: Path) -> None:
    """By name, ID, and the beginning of an ID; a name goes before an ID."""
    put(tmp_path, "blue.conflist", document("blue"))
    put(tmp_path, "164.conflist", document("164"))
    directory = Directory(tmp_path)
    blue: Conflist = directory.find("blue")
    assert directory.find(blue.id).name == directory.find("1647").name == "blue"
    assert directory.find("164").name == "164"
    with pytest.raises(Failure, match='network "red" not found') as failure:
        directory.find("red")
    assert failure.value.code == NOT_FOUND
    with pytest.raises(Failure, match="not found"):
        directory.find("")


def test_write(tmp_path: Path) -> None:
    """A file that runtimes can read, and nothing else in the directory, whatever the umask."""
    before = os.umask(0o077)
    try:
        with Directory(tmp_path / "net.d") as directory:
            path = directory.write(document("blue"))
    finally:
        os.umask(before)
    assert [each.name for each in path.parent.iterdir()] == ["90-blue.conflist"]
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.parent.stat().st_mode & 0o777 == 0o755 & ~0o077
    assert read(path).document == document("blue")


@pytest.mark.parametrize("file", ["10-mine.conf", "90-blue.conflist"])
def test_write_replaces_nothing(tmp_path: Path, file: str) -> None:
    """A name is taken by whatever file has it, and a file by whatever is in it."""
    content = {"name": "blue", "type": "bridge"} if file.endswith("conf") else "garbage"
    path = put(tmp_path, file, content)
    before = path.read_bytes()
    with (
        Directory(tmp_path) as directory,
        pytest.raises(Failure, match="already exists") as failure,
    ):
        directory.write(document("blue"))
    assert failure.value.code == IN_THE_WAY
    assert [each.name for each in tmp_path.iterdir()] == [file]
    assert path.read_bytes() == before
