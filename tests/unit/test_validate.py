"""`cnm network validate`: every problem of a file, at its place."""

import json
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnm_core import json as strict
from cnm_core.schema import located
from cnm_core.schema.conflist import Conflist
from cnm_core.schema.json_schema import of_conflist
from plugins import EXECUTABLES

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
GOOD = {"cniVersion": "1.1.0", "name": "blue"}
POOL = {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]]}


def problems(content: object) -> list[tuple[str, str, str]]:
    """(pointer, severity, message) of each problem of a file's content."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return [(each.pointer, each.severity, each.message) for each in Conflist(text).problems]


def all_paths(value: Any, path: located.Path = ()) -> dict[located.Path, Any]:
    """Every value of a document by its path."""
    found = {path: value}
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            found |= all_paths(each, (*path, key))
    return found


@given(values, st.sampled_from([None, 0, 1, "\t"]))
def test_places(value: Any, indent: int | str | None) -> None:
    """Each value and each key is found where it stands."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    document = located.parse(text.encode())
    lines = text.split("\n")
    for path, each in all_paths(value).items():
        line, column = document.place(path)
        rest = "\n".join([lines[line - 1][column - 1 :], *lines[line:]])
        assert json.JSONDecoder().raw_decode(rest)[0] == each
        if path and isinstance(path[-1], str):
            line, column = document.place(path, key=True)
            assert lines[line - 1][column - 1 :].startswith(
                json.dumps(path[-1], ensure_ascii=False)
            )
    assert document.values.keys() == all_paths(value).keys()


@given(st.binary(max_size=30) | st.text(max_size=30).map(str.encode))
def test_any_content(content: bytes) -> None:
    """Whatever the bytes, what plugins would refuse to read is a problem with a place in it."""
    found = Conflist(content).problems
    try:
        readable = isinstance(strict.loads(content.decode()), dict)
    except ValueError:
        readable = False
    assert readable or found
    lines = content.decode("utf-8", "replace").split("\n")
    for each in found:
        assert 1 <= each.line <= len(lines)
        assert 1 <= each.column <= len(lines[each.line - 1]) + 1


@pytest.mark.parametrize(
    ("content", "line", "column", "message"),
    [
        (b'{"name": "bl\xffue"}', 1, 13, "is not UTF-8: there is a byte 0xff"),
        (b'{\n"a": "\xc3\xa9\xff"}', 2, 8, "is not UTF-8: there is a byte 0xff"),
        (b"\xef\xbb\xbf{}", 1, 1, "begins with a byte order mark, which JSON has not"),
        (b'{"name": "blue"}\n\n x', 3, 2, "is not JSON: text after the document"),
        (b'{"name": "blue",}', 1, 17, "is not JSON: expected a key in double quotes"),
        (b'{"name": NaN}', 1, 10, "is not JSON: expected a value"),
        (b"", 1, 1, "is not JSON: the document ends too early"),
        (b" []", 1, 2, "must be an object, got []"),
    ],
)
def test_no_document(content: bytes, line: int, column: int, message: str) -> None:
    """What is no JSON object has one problem, at its place."""
    (found,) = Conflist(content).problems
    assert (found.line, found.column, found.message) == (line, column, message)


@pytest.mark.parametrize("example", of_conflist()["examples"])
def test_examples(example: dict[str, Any]) -> None:
    """Nothing is wrong with the examples of the documentation."""
    assert problems(example) == []


def test_one_plugin() -> None:
    """A file with the configuration of one plugin is a network too, as for libcni."""
    assert problems({**GOOD, "type": "bridge", "ipam": POOL}) == []
    assert problems({**GOOD, "type": "bridge", "mtu": 5.5})[0][0] == "/mtu"


PLUGIN_PROBLEMS = [
    ({"type": "bridge", "mtu": "big"}, "/mtu", "error"),
    ({"type": "bridge", "Bridge": "blue0"}, "/Bridge", "warning"),
    ({"type": "bridge", "ipam": {**POOL, "dataDir": "x"}}, "/ipam/dataDir", "error"),
    ({"type": "bridge", "ipam": {**POOL, "range": []}}, "/ipam/range", "warning"),
    ({"type": "bridge", "ipam": {"subnet": "10.1.0.0/24"}}, "/ipam", "warning"),
    ({"type": "bridge", "ipam": {"type": "a/b"}}, "/ipam/type", "error"),
    ({"type": "bridge", "ipam": {"type": "macvlan"}}, "/ipam/type", "error"),
    ({"type": "bridge", "ipam": {"type": "host-local"}}, "/ipam/ranges", "error"),
    ({"type": "bridge", "runtimeConfig": {"mac": "x"}}, "/runtimeConfig/mac", "error"),
    ({"type": "bridge", "capabilities": {"mac": 1}}, "/capabilities/mac", "error"),
    ({"type": "portmap", "snat": True}, "/type", "error"),
    ({"type": "tuning", "capabilities": 1}, "/capabilities", "error"),
    ({"type": "../bridge"}, "/type", "error"),
    ({"type": ""}, "/type", "error"),
    (
        {"type": "bridge", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.1/24"}]]}},
        "/ipam/ranges/0/0/subnet",
        "error",
    ),
    (
        {"type": "bridge", "ipam": {**POOL, "ranges": [*POOL["ranges"], *POOL["ranges"]]}},
        "/ipam/ranges",
        "error",
    ),
]


@pytest.mark.parametrize(("plugin", "pointer", "severity"), PLUGIN_PROBLEMS)
def test_plugin(plugin: dict[str, Any], pointer: str, severity: str) -> None:
    """What is wrong with a plugin is said once, at its place in the list."""
    ((place, found, message),) = problems({**GOOD, "plugins": [plugin]})
    assert (place, found) == (f"/plugins/0{pointer}", severity)
    assert message


def test_keys_of_others_are_theirs() -> None:
    """Nothing is said about keys of plugins that are not ours, nor of keys with a domain."""
    tuning = {"type": "tuning", "sysctl": {}, "mtu": "x", "ipam": {"type": "dhcp", "x": 1}}
    bridge = {"type": "bridge", "example.org/owner": "x"}
    assert problems({**GOOD, "plugins": [bridge, tuning]}) == []


@pytest.mark.parametrize(
    ("changes", "pointer", "severity"),
    [
        ({"cniVersion": "9.9.9"}, "/cniVersion", "error"),
        ({"cniVersion": 1}, "/cniVersion", "error"),
        ({"cniVersion": None}, "/cniVersion", "warning"),
        ({"cniVersions": ["9.9.9"]}, "/cniVersions", "error"),
        ({"name": None}, "/name", "error"),
        ({"name": "a/b"}, "/name", "error"),
        ({"plugins": []}, "/plugins", "error"),
        ({"plugins": {}}, "/plugins", "error"),
        ({"plugins": [5]}, "/plugins/0", "error"),
        ({"disableGC": 1}, "/disableGC", "error"),
        ({"disablegc": True}, "/disablegc", "warning"),
    ],
)
def test_network(changes: dict[str, Any], pointer: str, severity: str) -> None:
    """So is what is wrong with the list itself."""
    network = {**GOOD, "plugins": [{"type": "bridge"}], **changes}
    assert [found[:2] for found in problems(network)] == [(pointer, severity)]


def test_words_for_flags() -> None:
    """libcni takes "true" for true."""
    assert problems({**GOOD, "plugins": [{"type": "bridge"}], "disableCheck": "True"}) == []


def test_repeated_key() -> None:
    """A key that an object has twice is named where it stands the second time."""
    text = b'{"cniVersion": "1.1.0", "name": "a",\n "name": "b", "plugins": [{"type": "bridge"}]}'
    (found,) = Conflist(text).problems
    assert (found.line, found.column, found.pointer) == (2, 2, "/name")


def test_several_at_once() -> None:
    """All problems are found, and come in the order of the text."""
    plugin = {"type": "bridge", "mtu": -1, "isGateway": 1, "ipam": {"type": "static", "x": 1}}
    found = problems({"plugins": [plugin], "name": "/", "x": 1})
    pointers = [pointer for pointer, _, _ in found]
    inside = [f"/plugins/0/{key}" for key in ("mtu", "isGateway", "ipam/x")]
    assert pointers == ["/cniVersion", *inside, "/name", "/x"]


def cnm(*words: str, content: bytes = b"", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `cnm network validate` from its sources."""
    command = [sys.executable, "-c", "from cnm_core.cli.main import main; main()"]
    done = subprocess.run(
        [*command, "network", "validate", *words],
        input=content,
        capture_output=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", **variables},
    )
    return subprocess.CompletedProcess(
        words, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with all executables, as far as anybody looks."""
    for name in EXECUTABLES:
        (tmp_path / name).touch(0o755)
    return tmp_path


def test_command(directory: Path) -> None:
    """A line for each problem on stdout, a summary on stderr, and the exit code."""
    file = directory / "10-blue.conflist"
    file.write_text('{"cniVersion": "1.1.0", "name": "blue",\n "plugins": [{"type": "bridge"}]}')
    done = cnm(str(file), "--cni-path", str(directory))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    file.write_text('{"cniVersion": "1.1.0", "name": "blue",\n "plugins": [{"type": 5}]}')
    done = cnm(str(file), "--cni-path", str(directory))
    assert done.returncode == 5
    assert done.stdout == f"{file}:2:23: error: /plugins/0/type: must be a string, got 5\n"
    assert done.stderr == "cnm: 1 error in 1 file; each line above says where\n"


def test_warnings_are_no_failure(directory: Path) -> None:
    """What has no effect is said, and the file may be used."""
    content = json.dumps({**GOOD, "plugins": [{"type": "bridge"}], "x": 1}).encode()
    done = cnm("-", content=content, CNI_PATH=str(directory))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("stdin:1:")


def test_json(directory: Path) -> None:
    """For programs, one object a line with the same."""
    content = b'{"name": "blue"'
    done = cnm("-", "--format", "json", content=content)
    assert done.returncode == 5
    assert json.loads(done.stdout) == {
        "file": "-",
        "line": 1,
        "column": 16,
        "pointer": "",
        "severity": "error",
        "message": "is not JSON: the document ends too early",
        "advice": "",
    }


def test_executables(directory: Path) -> None:
    """Executables must be in CNI_PATH; those of IPAM drivers only where one is run."""
    inside = {"type": "bridge", "ipam": POOL}
    foreign = {"type": "ptp", "ipam": POOL}
    (directory / "ptp").touch(0o755)
    (directory / "host-local").unlink()
    content = json.dumps({**GOOD, "plugins": [inside, foreign, {"type": "tuning"}]}).encode()
    (directory / "ptp").chmod(stat.S_IRUSR)
    done = cnm("-", "--format", "json", content=content, CNI_PATH=f"/nowhere:{directory}")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    nowhere = f"is in no directory of /nowhere:{directory}"
    assert {each["pointer"]: each["message"] for each in found} == {
        "/plugins/1/type": f"{directory}/ptp is not executable",
        "/plugins/1/ipam/type": f'executable "host-local" {nowhere}',
        "/plugins/2/type": f'executable "tuning" {nowhere}',
    }
    assert cnm("-", "--no-executables", content=content).returncode == 0


def test_docker_driver(directory: Path, docker_plugins: Path) -> None:
    """An IPAM driver that was written for Docker needs no executable."""
    plugin = {"type": "bridge", "ipam": {"type": "custom"}}
    content = json.dumps({**GOOD, "plugins": [plugin]}).encode()
    assert cnm("-", content=content, CNI_PATH=str(directory)).returncode == 5
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(docker_plugins / "custom.sock"))
        done = cnm("-", content=content, CNI_PATH=str(directory))
    assert (done.returncode, done.stdout) == (0, "")


def test_several_files(directory: Path) -> None:
    """Files are checked each, and two networks of one name are a problem."""
    one, other, gone = directory / "1.conflist", directory / "2.conflist", directory / "3.conflist"
    for file in (one, other):
        file.write_text(json.dumps({**GOOD, "plugins": [{"type": "bridge"}]}))
    done = cnm(str(one), str(other), str(gone), "--cni-path", str(directory))
    assert done.returncode == 5
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{other}:1:") and str(one) in first
    assert second == f"{gone}:1:1: error: cannot be read: No such file or directory"


BRIDGE = {"type": "bridge", "isDefaultGateway": True, "ipMasq": True, "ipam": POOL}
STATIC = {"type": "static", "addresses": [{"address": "10.1.0.1/24"}]}


@pytest.mark.parametrize(
    ("plugin", "pointer", "message"),
    [
        (BRIDGE | {"internal": True}, "internal", "cannot be true with ipMasq"),
        (
            {"type": "bridge", "ipMasq": True},
            "ipMasq",
            "needs addresses, and there is no ipam.type",
        ),
        (
            BRIDGE | {"hairpinMode": True, "promiscMode": True},
            "hairpinMode",
            "cannot be true with promiscMode: true",
        ),
        (
            BRIDGE | {"ipMasqBackend": "iptables"},
            "ipMasqBackend",
            '"iptables" is not supported',
        ),
        (BRIDGE | {"mtu": 67}, "mtu", 'must be "auto", 0, or from 68 to 65535, got 67'),
        (
            BRIDGE | {"hostIPv4": "fd00::1"},
            "hostIPv4",
            "must be of that version, got fd00::1",
        ),
        (
            BRIDGE | {"vlanTrunk": [{"id": 5}, {"minID": 9, "maxID": 5}]},
            "vlanTrunk/1",
            "minID: 9 is greater than maxID: 5",
        ),
        (
            BRIDGE | {"ipam": {"type": "host-local", "subnet": "10.1.0.5/32"}},
            "isGateway",
            "10.1.0.5/32 leaves the bridge no address of its own",
        ),
        (
            BRIDGE | {"ipam": STATIC},
            "isGateway",
            "10.1.0.1/24 leaves the bridge no address of its own",
        ),
        (
            {"type": "macvlan", "master": "eth0", "internal": True},
            "internal",
            "cannot be true with master",
        ),
        ({"type": "ipvlan", "master": "eth0", "mtu": 9}, "mtu", "must be 0 or from 68"),
    ],
    ids=str,
)
def test_keys_that_cannot_go_together(plugin: dict[str, Any], pointer: str, message: str) -> None:
    """What every ADD would refuse is an error here."""
    ((place, severity, said),) = problems(GOOD | {"plugins": [plugin]})
    assert (place, severity) == (f"/plugins/0/{pointer}", "error")
    assert said.startswith(message)
    ((place, severity, _),) = problems(GOOD | plugin)
    assert (place, severity) == (f"/{pointer}", "error")


@pytest.mark.parametrize(
    ("key", "value"), [("masqAll", True), ("backend", "iptables"), ("conditionsV4", ["!", "-d"])]
)
def test_keys_of_the_go_portmap(key: str, value: object) -> None:
    """A chained portmap says what it does not do before a container needs it."""
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}, key: value}
    ((place, severity, message),) = problems(GOOD | {"plugins": [BRIDGE, portmap]})
    assert (place, severity) == (f"/plugins/1/{key}", "error")
    assert "is not supported" in message
