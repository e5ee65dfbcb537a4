"""Environment variables (CNI spec 1.1.0, "Parameters" of section 2, and its reference library)."""

import os
from collections.abc import Callable

import pytest

from tests import cni
from tests.cni import INVALID_ENVIRONMENT, INVALID_NETNS, Config, Endpoint, Outcome
from tests.iproute import HOST, Snapshot

Call = Callable[..., Outcome]

REQUIRED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
}
REQUIRED_PAIRS = [(command, name) for command, names in REQUIRED.items() for name in names]
SANDBOX = {"container_id": "c1", "netns": "/run/netns/absent", "ifname": "eth0"}
KUBELET = (
    "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;"
    "K8S_POD_INFRA_CONTAINER_ID=0a1b2c;K8S_POD_UID=5b2a-11"
)


@pytest.mark.since("1.1.0")
def test_each_command_is_known(
    endpoint: Callable[[], Endpoint], call: Call, config: Config
) -> None:
    """spec: CNI_COMMAND is one of ADD, DEL, CHECK, GC, STATUS and VERSION."""
    eth0 = endpoint()
    assert call("VERSION", config).code == 0
    call("STATUS", config).silent()
    result = eth0.add(config)
    eth0.check(config, result).silent()
    call("GC", cni.collected(config, eth0)).silent()
    eth0.delete(config, result)


@pytest.mark.parametrize("command", ["FOO", "add", "ADD ", "ADD\n"])
def test_unknown_command(call: Call, config: Config, command: str) -> None:
    """spec: an environment variable with an invalid value is error 4, and is named."""
    error = call(command, config, **SANDBOX).error(INVALID_ENVIRONMENT)
    assert "CNI_COMMAND" in error["msg"]
    assert command in error["msg"]


@pytest.mark.parametrize("command", [None, ""])
def test_without_command_it_says_what_it_is(call: Call, plugin: str, command: str | None) -> None:
    """Reference library: called by hand, a plugin tells its name and versions on stderr."""
    outcome = call(command)
    assert (outcome.code, outcome.stdout) == (0, b"")
    about = outcome.stderr.decode()
    assert plugin in about
    assert all(version in about for version in cni.VERSIONS)


@pytest.mark.parametrize(("command", "variable"), REQUIRED_PAIRS)
@pytest.mark.parametrize("empty", [False, True], ids=["absent", "empty"])
def test_missing_variable(
    call: Call, config: Config, command: str, variable: str, empty: bool
) -> None:
    """spec: a required variable that is absent is error 4 and is named; empty is absent."""
    change = {"extra_env": {variable: ""}} if empty else {"env_drop": (variable,)}
    error = call(command, config, **SANDBOX, **change).error(INVALID_ENVIRONMENT)
    assert variable in error["msg"]
    assert not [name for name in REQUIRED[command] if name != variable and name in error["msg"]]


@pytest.mark.parametrize("command", REQUIRED)
def test_all_missing_variables_at_once(call: Call, config: Config, command: str) -> None:
    """Reference library: one error names every variable that is missing, in a fixed order."""
    message = call(command, config).error(INVALID_ENVIRONMENT)["msg"]
    positions = [message.index(variable) for variable in REQUIRED[command]]
    assert positions == sorted(positions)


@pytest.mark.parametrize("command", ["GC", "STATUS"])
def test_network_commands_need_no_sandbox(call: Call, config: Config, command: str) -> None:
    """spec: GC and STATUS have no container, no namespace and no interface."""
    call(command, cni.collected(config)).silent()


@pytest.mark.parametrize("command", ["GC", "STATUS"])
def test_network_commands_do_not_look_at_a_sandbox(
    call: Call, config: Config, command: str
) -> None:
    """Reference library: variables are not checked where they mean nothing."""
    invalid = {"container_id": "../x", "netns": "dummy", "ifname": "a/b"}
    call(command, cni.collected(config), **invalid).silent()


def test_path_is_only_for_delegates(
    endpoint: Callable[[], Endpoint], call: Call, config: Config
) -> None:
    """spec: CNI_PATH is a list of directories to search for plugins; it may be absent."""
    eth0 = endpoint()
    without_path: Config = {"env_drop": ("CNI_PATH",)}
    result = eth0.add(config, **without_path)
    eth0.check(config, result, **without_path).silent()
    if config["cniVersion"] == cni.NEWEST:
        call("STATUS", config, path=None).silent()
        call("GC", cni.collected(config, eth0), path=None).silent()
    eth0.delete(config, result, **without_path)


@pytest.mark.needs("delegates")
def test_a_delegate_needs_the_path(endpoint: Callable[[], Endpoint], config: Config) -> None:
    """spec: a plugin finds those that it delegates to by CNI_PATH."""
    foreign = config | {"ipam": {"type": "foreign"}}
    outcome = endpoint().call("ADD", foreign, env_drop=("CNI_PATH",))
    assert "CNI_PATH" in outcome.error(INVALID_ENVIRONMENT)["msg"]


@pytest.mark.parametrize("command", REQUIRED)
@pytest.mark.parametrize(
    "container_id", ["../x", "a b", "-a", ".a", "_a", "é", "a/b", "a\n", "a;b"]
)
def test_invalid_container_id(call: Call, config: Config, command: str, container_id: str) -> None:
    """spec: a container ID starts alphanumeric, then has those, underscores, dots and hyphens."""
    error = call(command, config, **SANDBOX | {"container_id": container_id}).error(
        INVALID_ENVIRONMENT
    )
    assert "CNI_CONTAINERID" in error["msg"]
    assert container_id in error["msg"] + error.get("details", "")


@pytest.mark.needs("addresses")
@pytest.mark.parametrize("container_id", ["a", "7", "A.b_c-1", "0123456789abcdef" * 4, "a" * 128])
def test_valid_container_id(
    endpoint: Callable[[], Endpoint], config: Config, container_id: str
) -> None:
    """spec: the form of a container ID does not limit its length."""
    eth0 = endpoint()
    eth0.add(config, container_id=container_id)
    assert {owner for owner, _ in cni.leases().values()} == {container_id}
    eth0.delete(config, container_id=container_id)
    assert not cni.leases()


@pytest.mark.parametrize("command", REQUIRED)
@pytest.mark.parametrize(
    "ifname", ["a" * 16, "é" * 8, ".", "..", "a/b", "a:1", "a b", "a\t", "a\u2003"]
)
def test_invalid_interface_name(call: Call, config: Config, command: str, ifname: str) -> None:
    """spec: CNI_IFNAME is a name that the kernel can give to an interface."""
    error = call(command, config, **SANDBOX | {"ifname": ifname}).error(INVALID_ENVIRONMENT)
    assert "CNI_IFNAME" in error["msg"]


@pytest.mark.needs("interface")
def test_longest_interface_name(endpoint: Callable[[], Endpoint], config: Config) -> None:
    """Reference library: an interface name has up to 15 bytes."""
    longest = endpoint().other("a" * 15)
    longest.add(config)
    assert longest.ifname in longest.netns.links()
    longest.delete(config)


def test_invalid_comes_before_missing(call: Call, config: Config) -> None:
    """Reference library: a malformed variable is reported, and the first of several."""
    both = call("ADD", config, container_id="../x", ifname="a/b").error(INVALID_ENVIRONMENT)
    assert "../x" in both["msg"] + both["details"]
    assert "CNI_NETNS" not in both["msg"]
    second = call("ADD", config, ifname="a/b").error(INVALID_ENVIRONMENT)
    assert "CNI_IFNAME" in second["msg"]
    assert "CNI_CONTAINERID" not in second["msg"]


@pytest.mark.parametrize("pair", ["x", "A=1=2", "=1", "A=1;", ";", "IgnoreUnknown=1;;IP=10.1.0.9"])
def test_malformed_args(endpoint: Callable[[], Endpoint], config: Config, pair: str) -> None:
    """spec: CNI_ARGS are pairs of key and value, separated by semicolons."""
    error = endpoint().call("ADD", config, args=pair).error(INVALID_ENVIRONMENT)
    assert "ARGS" in error["msg"]


@pytest.mark.parametrize("args", ["FOO=bar", "mac=02:42:0a:01:00:05", "IgnoreUnknown=0;FOO=bar"])
def test_unknown_args(endpoint: Callable[[], Endpoint], config: Config, args: str) -> None:
    """Reference library: keys are case-sensitive, unknown ones an error that has the pair."""
    error = endpoint().call("ADD", config, args=args).error(INVALID_ENVIRONMENT)
    assert args.rpartition(";")[2] in error["msg"]


@pytest.mark.parametrize("truth", ["1", "true", "True", "TRUE"])
def test_unknown_args_may_be_ignored(
    endpoint: Callable[[], Endpoint], config: Config, truth: str
) -> None:
    """Reference library: IgnoreUnknown lets keys pass that the plugin does not know."""
    eth0 = endpoint()
    eth0.add(config, args=f"FOO=bar;IgnoreUnknown={truth}")
    eth0.delete(config, args=f"FOO=bar;IgnoreUnknown={truth}")


def test_ignore_unknown_is_a_truth_value(endpoint: Callable[[], Endpoint], config: Config) -> None:
    """Reference library: IgnoreUnknown is 0, 1, or a spelling of true or false."""
    error = endpoint().call("ADD", config, args="IgnoreUnknown=maybe").error(INVALID_ENVIRONMENT)
    assert "maybe" in error["msg"]


def test_args_of_kubernetes(endpoint: Callable[[], Endpoint], config: Config) -> None:
    """What the kubelet's runtimes send with each call is accepted by each command."""
    eth0 = endpoint()
    result = eth0.add(config, args=KUBELET)
    eth0.check(config, result, args=KUBELET).silent()
    eth0.delete(config, result, args=KUBELET)


@pytest.mark.needs("interface")
@pytest.mark.parametrize("command", ["ADD", "DEL"])
@pytest.mark.parametrize("whose", ["its own", "its parent's"])
def test_the_plugins_own_namespace_is_refused(
    endpoint: Callable[[], Endpoint],
    snapshot: Callable[..., Snapshot],
    config: Config,
    command: str,
    whose: str,
) -> None:
    """Reference library: error 8 where CNI_NETNS is the plugin's own; nothing has been done."""
    eth0 = endpoint()
    eth0.add(config)
    before = snapshot(eth0.netns)
    target = eth0 if command == "DEL" else eth0.other("eth1")
    process = "self" if whose == "its own" else os.getpid()
    target.call(command, config, netns=f"/proc/{process}/ns/net").error(INVALID_NETNS)
    assert snapshot(eth0.netns) == before


@pytest.mark.needs("interface")
@pytest.mark.parametrize("override", ["TRUE", "true", "1"])
def test_the_own_namespace_may_be_allowed(
    endpoint: Callable[[], Endpoint], config: Config, override: str
) -> None:
    """Reference library: CNI_NETNS_OVERRIDE switches that check off."""
    host_side = endpoint().other("host-side")
    allowed: Config = {"netns": HOST.path, "extra_env": {"CNI_NETNS_OVERRIDE": override}}
    host_side.add(config, **allowed)
    assert "host-side" in HOST.links()
    host_side.delete(config, **allowed)
    assert "host-side" not in HOST.links()


@pytest.mark.needs("interface")
@pytest.mark.parametrize("override", ["0", "no", ""])
def test_other_overrides_allow_nothing(
    endpoint: Callable[[], Endpoint], config: Config, override: str
) -> None:
    """Reference library: only TRUE and 1 switch the check off."""
    variables = {"netns": HOST.path, "extra_env": {"CNI_NETNS_OVERRIDE": override}}
    endpoint().call("ADD", config, **variables).error(INVALID_NETNS)
