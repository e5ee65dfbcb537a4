"""Address management by another plugin (CNI spec 1.1.0, section 4)."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import cni
from tests.cni import INVALID_CONFIG, PLUGIN_SPECIFIC, Config, Endpoint, Outcome
from tests.iproute import HOST, Snapshot

Call = Callable[..., Outcome]
MakeEndpoint = Callable[[], Endpoint]

pytestmark = pytest.mark.needs("delegates")

ANSWER: Config = {
    "cniVersion": cni.NEWEST,
    "ips": [{"address": "10.1.0.77/24", "gateway": "10.1.0.1"}],
    "routes": [{"dst": "10.8.0.0/16"}],
    "dns": {"nameservers": ["10.1.0.9"]},
}
OLD_ANSWER = {
    "cniVersion": "0.2.0",
    "ip4": {"ip": "10.1.0.77/24", "gateway": "10.1.0.1", "routes": [{"dst": "10.8.0.0/16"}]},
    "dns": {"nameservers": ["10.1.0.9"]},
}
ERROR: Config = {"cniVersion": "1.1.0", "code": 142, "msg": "out of order", "details": "try again"}

SCRIPT = """#!/bin/sh
here='{directory}'
number=$(wc -l < "$here/order")
echo "$CNI_COMMAND" >> "$here/order"
cat "/proc/$$/environ" > "$here/$number.environment"
cat > "$here/$number.stdin"
echo "$CNI_COMMAND was here" >&2
cat "$here/$CNI_COMMAND.answer" 2>/dev/null
exit "$(cat "$here/$CNI_COMMAND.status" 2>/dev/null || echo 0)"
"""


@dataclass(frozen=True)
class Recorded:
    """One call that the foreign plugin got."""

    command: str
    environment: dict[str, str]
    stdin: bytes


class Foreign:
    """An IPAM plugin of somebody else, which answers as told and writes down its calls."""

    def __init__(self, directory: Path, version: str) -> None:
        self.directory = directory
        self.plugin = directory / "bin" / "foreign"
        self.plugin.parent.mkdir()
        self.plugin.write_text(SCRIPT.format(directory=directory))
        self.plugin.chmod(0o755)
        (directory / "order").touch()
        self.answer("ADD", ANSWER | {"cniVersion": version})

    def answer(self, command: str, document: Config | str, status: int = 0) -> None:
        """What it prints at a command, and its exit status."""
        text = document if isinstance(document, str) else json.dumps(document)
        (self.directory / f"{command}.answer").write_text(text)
        (self.directory / f"{command}.status").write_text(str(status))

    def forget(self) -> None:
        """Start a new record."""
        (self.directory / "order").write_text("")

    @property
    def calls(self) -> list[Recorded]:
        """Its calls in their order."""
        commands = (self.directory / "order").read_text().split()
        return [self._recorded(number, command) for number, command in enumerate(commands)]

    @property
    def commands(self) -> list[str]:
        """The commands that it got, in their order."""
        return [each.command for each in self.calls]

    def _recorded(self, number: int, command: str) -> Recorded:
        environ = (self.directory / f"{number}.environment").read_bytes()
        pairs = (pair.decode().partition("=") for pair in environ.split(b"\0") if pair)
        return Recorded(
            command,
            {name: value for name, _, value in pairs},
            (self.directory / f"{number}.stdin").read_bytes(),
        )


@pytest.fixture
def foreign(tmp_path: Path, node: None, version: str) -> Foreign:
    """The foreign plugin, whose answers are of the version that is tried."""
    return Foreign(tmp_path, version)


@pytest.fixture
def config(config: Config, foreign: Foreign) -> Config:
    """A network whose addresses come from the foreign plugin."""
    return config | {"ipam": {"type": "foreign", "key": ["of", {"its": "own"}]}}


@pytest.fixture
def eth0(endpoint: MakeEndpoint, foreign: Foreign) -> Endpoint:
    """An endpoint whose CNI_PATH leads to the foreign plugin."""
    made = endpoint()
    return Endpoint(made.binary, str(foreign.plugin.parent), made.container_id, made.netns)


@pytest.mark.parametrize("answer", [None, OLD_ANSWER], ids=["of its version", "0.2.0"])
def test_its_answer_becomes_ours(
    eth0: Endpoint, foreign: Foreign, config: Config, answer: Config | None
) -> None:
    """spec: the delegate's result, of whatever version, is taken over into ours."""
    if answer is not None:
        foreign.answer("ADD", answer)
    result = eth0.add(config)
    assert cni.addresses(result) == ["10.1.0.77"]
    assert result["ips"][0]["interface"] == len(result["interfaces"]) - 1
    assert result["routes"] == [{"dst": "10.8.0.0/16"}]
    assert result["dns"] == {"nameservers": ["10.1.0.9"]}
    assert eth0.netns.addresses("eth0") == ["10.1.0.77/24"]


@pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL", "GC", "STATUS"])
def test_commands_are_forwarded(
    eth0: Endpoint, foreign: Foreign, config: Config, command: str
) -> None:
    """spec: the delegate gets the same command, the same environment and the same stdin."""
    variables: Config = {"args": "IgnoreUnknown=1;K8S_POD_NAME=web-0"}
    document = cni.collected(config, eth0)
    if command != "ADD":
        document["prevResult"] = eth0.add(config, **variables)
        foreign.forget()
    tracing = {"TRACEPARENT": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    outcome = eth0.call(command, document, extra_env=tracing, **variables)
    assert outcome.code == 0
    (got,) = foreign.calls
    assert got.command == command
    assert got.stdin == cni.encoded(document)
    assert got.environment == cni.environment(
        command,
        container_id=eth0.container_id,
        netns=eth0.netns.path,
        ifname="eth0",
        path=eth0.path,
        extra_env=tracing,
        **variables,
    )
    if command != "ADD":
        assert outcome.stdout == b""


def test_our_library_path_stays_with_us(eth0: Endpoint, foreign: Foreign, config: Config) -> None:
    """A delegate runs with its own libraries, or those that the runtime chose for it."""
    eth0.add(config)
    eth0.delete(config, extra_env={"LD_LIBRARY_PATH": "/chosen/by/the/runtime"})
    added, deleted = (each.environment for each in foreign.calls)
    assert not [name for name in added if name.startswith(("LD_", "_PYI", "_MEI", "PYTHON"))]
    assert deleted["LD_LIBRARY_PATH"] == "/chosen/by/the/runtime"


def test_its_stderr_is_ours(eth0: Endpoint, config: Config) -> None:
    """spec: logs go to stderr, the delegate's too."""
    assert b"ADD was here" in eth0.call("ADD", config).stderr


def test_a_failed_add_is_undone(
    eth0: Endpoint, foreign: Foreign, snapshot: Callable[..., Snapshot], config: Config
) -> None:
    """spec: DEL to the delegate after its ADD failed; its error is passed on as it came."""
    foreign.answer("ADD", ERROR, status=1)
    before = snapshot(eth0.netns)
    error = eth0.call("ADD", config).error(ERROR["code"])
    assert (error["msg"], error["details"]) == (ERROR["msg"], ERROR["details"])
    assert foreign.commands == ["ADD", "DEL"]
    assert snapshot(eth0.netns) == before


def test_the_first_error_is_told(eth0: Endpoint, foreign: Foreign, config: Config) -> None:
    """spec: the runtime learns why ADD failed, not why the clean-up did."""
    foreign.answer("ADD", ERROR, status=1)
    foreign.answer("DEL", ERROR | {"code": 143}, status=1)
    eth0.call("ADD", config).error(ERROR["code"])


def test_our_failure_releases_the_address(eth0: Endpoint, foreign: Foreign, config: Config) -> None:
    """spec: what the delegate gave is given back where our own part fails."""
    eth0.netns.ip("link", "add", "eth0", "type", "bridge")
    eth0.call("ADD", config).error()
    assert foreign.commands.count("ADD") == foreign.commands.count("DEL")


@pytest.mark.parametrize("command", ["CHECK", "DEL", "GC", "STATUS"])
def test_its_errors_are_passed_on(
    eth0: Endpoint, foreign: Foreign, config: Config, command: str
) -> None:
    """spec: the delegate's error is the plugin's."""
    document = cni.collected(config, eth0) | {"prevResult": eth0.add(config)}
    foreign.answer(command, ERROR, status=1)
    error = eth0.call(command, document).error(ERROR["code"])
    assert (error["msg"], error["details"]) == (ERROR["msg"], ERROR["details"])


def test_a_failed_release_can_be_tried_again(
    eth0: Endpoint, foreign: Foreign, config: Config
) -> None:
    """spec: after an error of DEL the runtime calls it again; then the address is released."""
    eth0.add(config)
    foreign.answer("DEL", ERROR, status=1)
    eth0.call("DEL", config).error(ERROR["code"])
    foreign.answer("DEL", "")
    foreign.forget()
    eth0.delete(config)
    assert foreign.commands == ["DEL"]
    assert "eth0" not in eth0.netns.links()


@pytest.mark.parametrize("change", [{"env_drop": ("CNI_NETNS",)}, {"netns": "/run/netns/absent"}])
def test_release_without_sandbox(
    eth0: Endpoint, foreign: Foreign, config: Config, change: Config
) -> None:
    """spec: DEL reaches the delegate also where the namespace is gone."""
    eth0.add(config)
    foreign.forget()
    eth0.delete(config, **change)
    assert foreign.commands == ["DEL"]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("no JSON", 0),
        ("", 0),
        ("[]", 0),
        ({"cniVersion": "1.1.0"}, 0),
        ({"cniVersion": "1.1.0", "ips": [{"address": "x"}]}, 0),
        ({"cniVersion": "9.9.9", "ips": []}, 0),
        ("", 1),
        ("no JSON", 1),
        ({"code": "x"}, 3),
    ],
    ids=str,
)
def test_useless_answers(
    eth0: Endpoint,
    foreign: Foreign,
    config: Config,
    answer: Config | str,
    status: int,
) -> None:
    """spec: a delegate that gives no addresses has failed, and gets a DEL."""
    foreign.answer("ADD", answer, status)
    eth0.call("ADD", config).error()
    assert foreign.commands == ["ADD", "DEL"]
    assert "eth0" not in eth0.netns.links()


@pytest.mark.parametrize("content", ["", "#!/nonexistent\n", "no program"])
def test_a_plugin_that_cannot_run(
    eth0: Endpoint, foreign: Foreign, config: Config, content: str
) -> None:
    """An error that names the plugin where it cannot be executed."""
    foreign.plugin.write_text(content)
    assert "foreign" in eth0.call("ADD", config).error(PLUGIN_SPECIFIC)["msg"]


def test_a_plugin_that_is_killed(eth0: Endpoint, foreign: Foreign, config: Config) -> None:
    """An error that names the plugin where it dies."""
    foreign.plugin.write_text("#!/bin/sh\nkill -9 $$\n")
    assert "foreign" in eth0.call("ADD", config).error(PLUGIN_SPECIFIC)["msg"]


@pytest.mark.parametrize("name", ["bin/foreign", "../bin/foreign", "/bin/true", ".", ".."])
def test_a_name_is_no_path(eth0: Endpoint, foreign: Foreign, config: Config, name: str) -> None:
    """Reference library: a plugin's name has no slash."""
    error = eth0.call("ADD", config | {"ipam": {"type": name}}).error(INVALID_CONFIG)
    assert name in error["msg"]
    assert not foreign.calls


def test_a_plugin_that_is_missing(eth0: Endpoint, config: Config) -> None:
    """Reference library: an error that says what was looked for, and where."""
    path = f"{eth0.path}:/another/path"
    error = eth0.call("ADD", config | {"ipam": {"type": "absent"}}, path=path).error()
    assert all(part in error["msg"] for part in ("absent", eth0.path, "/another/path"))


def test_the_search_goes_along_the_path(eth0: Endpoint, foreign: Foreign, config: Config) -> None:
    """spec: CNI_PATH is a list; the first regular file of that name is the plugin."""
    root = foreign.directory
    (root / "directory" / "foreign").mkdir(parents=True)
    (root / "links").mkdir()
    os.symlink(foreign.plugin, root / "links" / "foreign")
    parts = ["/nonexistent", "", str(root / "directory"), str(root / "links"), eth0.path]
    eth0.add(config, path=":".join(parts))
    foreign.plugin.unlink()
    eth0.call("DEL", config, path=":".join(parts)).error()


def test_a_large_configuration(eth0: Endpoint, foreign: Foreign, config: Config) -> None:
    """spec: the delegate gets the complete configuration, however long it is."""
    large = config | {"vendor": "x" * (1 << 20)}
    eth0.add(large)
    (got,) = foreign.calls
    assert got.stdin == cni.encoded(large)


def test_a_delegate_that_does_not_read(
    eth0: Endpoint, foreign: Foreign, config: Config, version: str
) -> None:
    """spec: a delegate may answer without a look at its input."""
    answer = json.dumps(ANSWER | {"cniVersion": version})
    foreign.plugin.write_text(f"#!/bin/sh\necho '{answer}'\n")
    assert cni.addresses(eth0.add(config | {"vendor": "x" * (1 << 20)})) == ["10.1.0.77"]


@pytest.mark.since("1.1.0")
def test_gc_goes_on_to_the_delegate(eth0: Endpoint, foreign: Foreign, config: Config) -> None:
    """spec: GC is forwarded, also where stale endpoints were removed on the way."""
    eth0.add(config)
    foreign.forget()
    eth0.call("GC", cni.collected(config)).silent()
    assert foreign.commands[-1] == "GC"
    assert "eth0" not in eth0.netns.links()
    assert not [name for name in HOST.links() if name.startswith("veth")]
