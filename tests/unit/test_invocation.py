"""What is made of environment and stdin, below what tests/conformance sees from outside."""

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnm_core.cni import invocation
from cnm_core.cni.invocation import VERSIONS, Invocation
from cnm_core.errors import (
    DecodingFailure,
    IncompatibleVersion,
    InvalidEnvironment,
    InvalidNetNS,
    InvalidNetworkConfig,
    IOFailure,
)
from cnm_core.model import EndpointKey

SANDBOX = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0"}
CONFIG = {"cniVersion": "1.1.0", "name": "blue"}

words = st.text(st.characters(exclude_characters="=;", exclude_categories=["Cs"]), min_size=1)


def _receive(command: str, environment: dict[str, str], config: Any) -> Invocation:
    return invocation.receive(command, environment, json.dumps(config).encode())


@given(st.dictionaries(words, words | st.just("")), st.sampled_from(["1", "true", "True", "t"]))
def test_arguments(pairs: dict[str, str], truth: str) -> None:
    """Pairs come out as they went in; IgnoreUnknown is none of them."""
    pairs.pop("IgnoreUnknown", None)
    text = ";".join(f"{key}={value}" for key, value in pairs.items())
    assert invocation.arguments(f"IgnoreUnknown={truth};{text}".rstrip(";")) == pairs
    if pairs.keys() - {"IP", "MAC"}:
        with pytest.raises(InvalidEnvironment, match="unknown args"):
            invocation.arguments(text)


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("", {}),
        ("IP=10.1.0.9", {"IP": "10.1.0.9"}),
        ("MAC=02:42:0a:01:00:05;IP=", {"MAC": "02:42:0a:01:00:05", "IP": ""}),
        ("IP=10.1.0.8;IP=10.1.0.9", {"IP": "10.1.0.9"}),
        ("X=1;IgnoreUnknown=1", {"X": "1"}),
        ("IgnoreUnknown=0;IP=10.1.0.9", {"IP": "10.1.0.9"}),
    ],
)
def test_known_arguments(text: str, pairs: dict[str, str]) -> None:
    """IP and MAC need no permission; of repeated keys the last counts."""
    assert invocation.arguments(text) == pairs


@given(st.text())
def test_arguments_of_any_text(text: str) -> None:
    """Any text is pairs, or an error that names the variable."""
    try:
        pairs = invocation.arguments(text)
    except InvalidEnvironment as error:
        assert error.msg.startswith("CNI_ARGS: ")
    else:
        assert all("=" not in value for value in pairs.values())


@pytest.mark.parametrize("version", VERSIONS)
def test_version(version: str) -> None:
    """Each version of the specification is known by its name."""
    assert invocation.version_of({"cniVersion": version}) == version
    assert _receive("ADD", SANDBOX, CONFIG | {"cniVersion": version}).version == version


@given(st.text(min_size=1).filter(lambda text: text not in VERSIONS))
def test_other_versions(version: str) -> None:
    """No other text is a version."""
    with pytest.raises(IncompatibleVersion) as caught:
        invocation.version_of({"cniVersion": version})
    assert f'"{version}"' in caught.value.details


@given(st.binary() | st.text().map(str.encode) | st.dictionaries(st.text(), st.integers()))
def test_decode(given_as: bytes | dict[str, int]) -> None:
    """Any bytes are one JSON object, or a decoding failure."""
    text = given_as if isinstance(given_as, bytes) else json.dumps(given_as).encode()
    try:
        expected = json.loads(text.decode())
    except ValueError:
        expected = None
    if isinstance(expected, dict):
        assert invocation.decode(text) == expected
    else:
        with pytest.raises(DecodingFailure, match="the configuration on stdin"):
            invocation.decode(text)


@pytest.mark.parametrize(
    "text", [b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b'{"a": "\xed\xa0\x80"}']
)
def test_decode_is_plain_utf_8(text: bytes) -> None:
    """No byte order mark, no other encoding, no surrogates."""
    with pytest.raises(DecodingFailure):
        invocation.decode(text)


def test_receive() -> None:
    """The call as its parts."""
    environment = SANDBOX | {"CNI_ARGS": "IP=10.1.0.9", "CNI_PATH": "/opt/cni/bin::/a b", "X": "y"}
    text = json.dumps(CONFIG).encode()
    call = invocation.receive("ADD", environment, text)
    assert call == Invocation(
        command="ADD",
        container_id="c1",
        netns="/run/netns/x",
        ifname="eth0",
        args={"IP": "10.1.0.9"},
        path=("/opt/cni/bin", "/a b"),
        version="1.1.0",
        config=CONFIG,
        text=text,
        environment=environment,
    )
    assert (call.key, call.network) == (EndpointKey("c1", "eth0"), "blue")


def test_del_without_a_sandbox() -> None:
    """The namespace may be gone, and with it its name."""
    del_only = {key: value for key, value in SANDBOX.items() if key != "CNI_NETNS"}
    assert _receive("DEL", del_only, CONFIG).netns == ""


@pytest.mark.parametrize(
    ("environment", "config", "failure"),
    [
        ({"CNI_IFNAME": "a/b", "CNI_ARGS": "x"}, [], InvalidEnvironment),
        ({}, [], InvalidEnvironment),
        (SANDBOX, [], DecodingFailure),
        (SANDBOX, {"cniVersion": "9.9.9"}, IncompatibleVersion),
        (SANDBOX | {"CNI_ARGS": "x"}, {}, InvalidNetworkConfig),
        (SANDBOX | {"CNI_ARGS": "x"}, CONFIG, InvalidEnvironment),
    ],
)
def test_order_of_checks(environment: dict[str, str], config: Any, failure: type) -> None:
    """Of several things that are wrong the first is told: variables, version, name, arguments."""
    with pytest.raises(failure):
        _receive("ADD", environment, config)


@pytest.fixture
def stdin() -> Iterator[int]:
    """The file that is the process's stdin for the time of the test."""
    saved, source = os.dup(0), os.memfd_create("stdin")
    os.dup2(source, 0)
    yield source
    os.dup2(saved, 0)
    os.close(saved)
    os.close(source)


@pytest.mark.parametrize("size", [0, 1, 1 << 16, (1 << 16) + 1, 16 << 20])
def test_stdin(stdin: int, size: int) -> None:
    """Everything is read, whatever the pieces."""
    os.truncate(stdin, size)
    assert invocation.read_stdin() == bytes(size)


def test_stdin_without_end(stdin: int) -> None:
    """What is no configuration by its size alone is not read to its end."""
    os.truncate(stdin, 1 << 40)
    with pytest.raises(IOFailure, match="larger than"):
        invocation.read_stdin()


@pytest.mark.parametrize(
    ("override", "refused"), [("", True), ("no", True), ("TRUE", False), ("true", False)]
)
def test_own_namespace(override: str, refused: bool) -> None:
    """The plugin's own namespace is refused, unless that is asked for."""
    call = _receive("ADD", SANDBOX | {"CNI_NETNS_OVERRIDE": override}, CONFIG)
    call.refuse_namespace(inode=1, own=2)
    if refused:
        with pytest.raises(InvalidNetNS):
            call.refuse_namespace(inode=1, own=1)
    else:
        call.refuse_namespace(inode=1, own=1)


@given(st.lists(st.tuples(words, words)))
def test_valid_attachments(pairs: list[tuple[str, str]]) -> None:
    """GC's list, under its key or the one that it had first."""
    listed = [{"containerID": container, "ifname": ifname} for container, ifname in pairs]
    expected = {EndpointKey(*pair) for pair in pairs}
    for key in ("cni.dev/valid-attachments", "cni.dev/attachments"):
        assert invocation.valid_attachments({key: listed}) == expected


@pytest.mark.parametrize("name", ["\udcff\udcfe", "eth\udc80"])
def test_an_interface_name_that_is_no_text(name: str) -> None:
    """The kernel would take it, and no result could have it."""
    with pytest.raises(InvalidEnvironment, match="CNI_IFNAME"):
        _receive("ADD", SANDBOX | {"CNI_IFNAME": name}, CONFIG)
