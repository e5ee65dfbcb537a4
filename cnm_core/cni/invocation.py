"""What a runtime hands to a plugin: environment and stdin (CNI spec 1.1.0, "Parameters")."""

from posix import read, write

from cnm_core import json
from cnm_core.config import formats, values
from cnm_core.errors import (
    DecodingFailure,
    IncompatibleVersion,
    InvalidEnvironment,
    InvalidNetNS,
    InvalidNetworkConfig,
    IOFailure,
)
from cnm_core.model import EndpointKey
from cnm_core.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
_SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
_NEEDS = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "GC": (),
    "STATUS": (),
    "VERSION": (),
}
_ARGUMENTS = ("IP", "GATEWAY", "MAC")
# By which verbs they are asked for: what ADD refused in them is no reason for DEL to fail.
_ASKS = ("ADD", "CHECK")
_STDIN_LIMIT = 16 << 20
# Container ID and interface name together are a file name, which has 255 bytes at most.
_LENGTH_LIMIT = 200
# So is a network's name, with some letters before and behind.
_NAME_LIMIT = 240


class Invocation(Record):
    """One call of a plugin. Variables that are not set are "".

    `config` is the decoded document and `text` its bytes, which delegates get unchanged.
    `path` are the directories of CNI_PATH; `args` the pairs of CNI_ARGS, for ADD and CHECK.
    """

    command: str
    container_id: str
    netns: str
    ifname: str
    args: dict[str, str]
    path: tuple[str, ...]
    version: str
    config: dict[str, object]
    text: bytes
    environment: dict[str, str]

    @property
    def key(self) -> EndpointKey:
        """Which endpoint the call is about."""
        return EndpointKey(self.container_id, self.ifname)

    @property
    def network(self) -> str:
        """The network's name."""
        return str(self.config["name"])

    def refuse_namespace(self, inode: int, own: int) -> None:
        """Raise InvalidNetNS where the sandbox's namespace is the plugin's own.

        A recycled path can mean the host's namespace, which must never be changed. The
        Go library looks only after the plugin has done its work.
        """
        override = self.environment.get("CNI_NETNS_OVERRIDE", "").upper() in ("TRUE", "1")
        if inode == own and not override:
            raise InvalidNetNS(
                "plugin's netns and netns from CNI_NETNS should not be the same",
                details=f'CNI_NETNS is "{self.netns}"',
            )

    def require_namespace(self, inode: int, own: int) -> None:
        """Raise InvalidNetNS where the sandbox's namespace is not the plugin's own."""
        if inode != own:
            raise InvalidNetNS(
                f'CNI_NETNS: "{self.netns}" is not the network namespace of the host',
                details="a network of type host is for sandboxes that share the host's namespace",
            )


def command_of(environment: "Mapping[str, str]") -> str:
    """The verb, "" where the plugin was not called by a runtime. Raises InvalidEnvironment."""
    command = environment.get("CNI_COMMAND", "")
    if command and command not in _NEEDS:
        raise InvalidEnvironment(
            f"unknown CNI_COMMAND: {command}", details=f"known are {', '.join(_NEEDS)}"
        )
    return command


def read_stdin() -> bytes:
    """All of stdin. Raises IOFailure where it cannot be read or never ends."""
    parts = []
    size = 0
    try:
        while part := read(0, 1 << 16):
            parts.append(part)
            size += len(part)
            if size > _STDIN_LIMIT:
                raise IOFailure(f"the configuration on stdin is larger than {_STDIN_LIMIT} bytes")
    except OSError as error:
        raise IOFailure(f"cannot read the configuration from stdin: {error.strerror}") from None
    return b"".join(parts)


def decode(text: bytes) -> dict[str, object]:
    """The JSON object on stdin. Raises DecodingFailure."""
    try:
        document = json.loads(text.decode())
    except ValueError as error:
        raise DecodingFailure(f"the configuration on stdin is not JSON: {error}") from None
    if type(document) is not dict:
        raise DecodingFailure(
            f"the configuration on stdin must be an object, got {json.shorten(document)}"
        )
    return document


def version_of(config: dict[str, object]) -> str:
    """The configuration's cniVersion; 0.1.0 where there is none. Raises IncompatibleVersion."""
    version = config.get("cniVersion")
    if version is None or version == "":
        return "0.1.0"
    if type(version) is not str:
        raise DecodingFailure(f"cniVersion: must be a string, got {json.shorten(version)}")
    if version not in VERSIONS:
        raise IncompatibleVersion(
            "incompatible CNI versions",
            details=f'config is "{version}", plugin supports {json.dumps(VERSIONS)}',
        )
    return version


def receive(command: str, environment: dict[str, str], text: bytes) -> Invocation:
    """The whole call, checked in the order in which the specification's library does.

    Raises InvalidEnvironment, IncompatibleVersion, DecodingFailure, InvalidNetworkConfig.
    """
    container_id = environment.get("CNI_CONTAINERID", "")
    ifname = environment.get("CNI_IFNAME", "")
    if _NEEDS[command]:
        _check("CNI_CONTAINERID", container_id, formats.name)
        _check("CNI_IFNAME", ifname, formats.interface_name)
    missing = [name for name in _NEEDS[command] if not environment.get(name)]
    if missing:
        raise InvalidEnvironment(f"required env variables [{','.join(missing)}] missing")
    config = decode(text)
    version = version_of(config)
    since = _SINCE.get(command, version)
    if VERSIONS.index(version) < VERSIONS.index(since):
        raise IncompatibleVersion(
            f"config version does not allow {command}",
            details=f'config is "{version}", {command} came with "{since}"',
        )
    _check_name(config.get("name"))
    return Invocation(
        command=command,
        container_id=container_id,
        netns=environment.get("CNI_NETNS", ""),
        ifname=ifname,
        args=arguments(environment.get("CNI_ARGS", "")) if command in _ASKS else {},
        path=tuple(part for part in environment.get("CNI_PATH", "").split(":") if part),
        version=version,
        config=config,
        text=text,
        environment=environment,
    )


def arguments(text: str) -> dict[str, str]:
    """The pairs of CNI_ARGS, as in ``IgnoreUnknown=1;MAC=02:42:0a:01:00:05``.

    Unknown keys are an error unless IgnoreUnknown is true. Raises InvalidEnvironment.
    """
    pairs: dict[str, str] = {}
    for part in text.split(";") if text else ():
        key, equals, value = part.partition("=")
        if not equals or "=" in value or not key:
            raise InvalidEnvironment(
                f'CNI_ARGS: invalid pair "{part}"', details="use KEY=VALUE;..."
            )
        pairs[key] = value
    ignore = pairs.pop("IgnoreUnknown", "false")
    if ignore not in (
        "1",
        "true",
        "True",
        "TRUE",
        "t",
        "T",
        "0",
        "false",
        "False",
        "FALSE",
        "f",
        "F",
    ):
        raise InvalidEnvironment(f'CNI_ARGS: IgnoreUnknown must be true or false, got "{ignore}"')
    unknown = [f"{key}={value}" for key, value in pairs.items() if key not in _ARGUMENTS]
    if unknown and ignore[0] in "0fF":
        raise InvalidEnvironment(
            f"CNI_ARGS: unknown args {json.dumps(unknown)}",
            details="known are IP, GATEWAY and MAC; IgnoreUnknown=1 lets others pass",
        )
    return pairs


def _check(variable: str, value: str, meaning: "Callable[[str], str]") -> None:
    if not value:
        return
    if len(value) > _LENGTH_LIMIT:
        raise InvalidEnvironment(
            f"{variable} must be at most {_LENGTH_LIMIT} characters long, got {len(value)}",
            details=value,
        )
    try:
        meaning(value)
    except ValueError as error:
        raise InvalidEnvironment(f"{variable} {error}", details=value) from None


def _check_name(name: object) -> None:
    if name is None or name == "":
        raise InvalidNetworkConfig("missing network name", details='give "name" a value')
    if type(name) is not str:
        raise InvalidNetworkConfig(f"name: must be a string, got {json.shorten(name)}")
    if len(name) > _NAME_LIMIT:
        raise InvalidNetworkConfig(
            f"name: must be at most {_NAME_LIMIT} characters long, got {json.shorten(name)}"
        )
    try:
        formats.name(name)
    except ValueError as error:
        raise InvalidNetworkConfig(f"name: {error}") from None


def valid_attachments(config: dict[str, object]) -> frozenset[EndpointKey] | None:
    """The endpoints that GC must leave alone; None where the runtime did not say.

    The specification's key, or the one that libcni before 1.3 wrote beside it. libcni
    leaves both out when its caller has no list, as cnitool does: that is not the same as
    an empty list, by which every attachment is stale. Raises InvalidNetworkConfig.
    """
    for key in ("cni.dev/valid-attachments", "cni.dev/attachments"):
        if config.get(key) is not None:
            return frozenset(values.list_of(_attachment)(config[key], key))
    say("cni.dev/valid-attachments: is missing; nothing is collected")
    return None


def _attachment(value: object, place: str) -> EndpointKey:
    fields = values.mapping(value, place)
    return EndpointKey(
        values.required(fields, "containerID", place, values.text),
        values.required(fields, "ifname", place, values.text),
    )


def say(text: str) -> None:
    """A line on stderr, which runtimes log; stdout is for the protocol."""
    try:
        write(2, f"{text}\n".encode("utf-8", "replace"))
    except OSError:
        pass  # closed, or nobody reads it: what is said there is no part of the answer
