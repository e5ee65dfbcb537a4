"""Running a CNI plugin as a black box: environment and stdin in, status and output out."""

import copy
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.iproute import PATIENCE, Netns

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
OLDEST, NEWEST = VERSIONS[0], VERSIONS[-1]
WITH_INTERFACES = VERSIONS[VERSIONS.index("0.3.0") :]
WITH_CHECK = VERSIONS[VERSIONS.index("0.4.0") :]

INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
DECODING_FAILURE = 6
INVALID_CONFIG = 7
INVALID_NETNS = 8
NOT_AVAILABLE = 50
PLUGIN_SPECIFIC = range(100, 1000)

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LEASES = Path("/var/lib/cni/networks")

Config = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a call of a plugin ended."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.stdout)

    def result(self) -> Config:
        """The result of an ADD that succeeded."""
        assert self.code == 0, self
        result: Config = self.json
        return result

    def silent(self) -> None:
        """Assert success of a command that has nothing to say."""
        assert (self.code, self.stdout) == (0, b""), self

    def error(self, code: int | range | None = None) -> Config:
        """The error object of a call that failed, with that code or one of that range."""
        assert self.code != 0, self
        error: Config = self.json
        assert isinstance(error["code"], int) and error["code"] > 0, self
        assert isinstance(error["msg"], str) and error["msg"], self
        if isinstance(code, range):
            assert error["code"] in code, self
        elif code is not None:
            assert error["code"] == code, self
        return error


def environment(
    command: str | None,
    *,
    container_id: str | None = None,
    netns: str | None = None,
    ifname: str | None = None,
    args: str | None = None,
    path: str | None = None,
    env_drop: tuple[str, ...] = (),
    extra_env: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The environment of a call; what is None is not set."""
    variables = {
        "PATH": SEARCH_PATH,
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container_id,
        "CNI_NETNS": netns,
        "CNI_IFNAME": ifname,
        "CNI_ARGS": args,
        "CNI_PATH": path,
        **(extra_env or {}),
    }
    return {
        name: value
        for name, value in variables.items()
        if value is not None and name not in env_drop
    }


def call(
    binary: Path,
    command: str | None,
    config: Config | bytes = b"",
    *,
    stdin_closed: bool = False,
    stdout: int = subprocess.PIPE,
    **variables: Any,
) -> Outcome:
    """Run a plugin to its end. `variables` are those of `environment`."""
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" <&-', binary] if stdin_closed else [binary],
        input=None if stdin_closed else encoded(config),
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=environment(command, **variables),
        timeout=PATIENCE,
        check=False,
    )
    return Outcome(done.returncode, done.stdout or b"", done.stderr)


def encoded(config: Config | bytes) -> bytes:
    """The bytes of a configuration."""
    return config if isinstance(config, bytes) else json.dumps(config).encode()


@dataclass(frozen=True)
class Endpoint:
    """One interface of one container, as a runtime sees it."""

    binary: Path
    path: str
    container_id: str
    netns: Netns
    ifname: str = "eth0"

    def call(self, command: str, config: Config | bytes, **changes: Any) -> Outcome:
        """Run the plugin for this endpoint, with changed variables where given."""
        return call(self.binary, command, config, **{**self.variables, **changes})

    def kill(self, command: str, config: Config, seconds: float) -> None:
        """Run the plugin, and kill it if it is not done by then."""
        with subprocess.Popen(
            [self.binary],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(command, **self.variables),
        ) as process:
            try:
                process.communicate(encoded(config), timeout=seconds)
            except subprocess.TimeoutExpired:
                process.kill()

    def add(self, config: Config, **changes: Any) -> Config:
        """ADD, which must succeed; the result."""
        return self.call("ADD", config, **changes).result()

    def check(self, config: Config, result: Config, **changes: Any) -> Outcome:
        """CHECK with that result as prevResult."""
        return self.call("CHECK", config | {"prevResult": result}, **changes)

    def delete(self, config: Config, result: Config | None = None, **changes: Any) -> None:
        """DEL, which must succeed, with that result as prevResult where given."""
        previous = {} if result is None else {"prevResult": result}
        self.call("DEL", config | previous, **changes).silent()

    def other(self, ifname: str) -> "Endpoint":
        """Another interface of the same container."""
        return replace(self, ifname=ifname)

    @property
    def variables(self) -> dict[str, Any]:
        """Those of `environment` that name the endpoint."""
        return {
            "container_id": self.container_id,
            "netns": self.netns.path,
            "ifname": self.ifname,
            "path": self.path,
        }

    @property
    def attachment(self) -> dict[str, str]:
        """The endpoint as GC's `cni.dev/valid-attachments` has it."""
        return {"containerID": self.container_id, "ifname": self.ifname}


def network(plugin: str = "bridge", version: str = NEWEST, **members: Any) -> Config:
    """A network with IPv4 addresses of our own IPAM, for any plugin that makes interfaces."""
    config: Config = {"cniVersion": version, "name": "blue", "type": plugin}
    if plugin == "bridge":
        config |= {"bridge": "blue0", "isGateway": True}
    return config | {"ipam": host_local("10.1.0.0/24")} | members


def host_local(*subnets: str, **members: Any) -> Config:
    """The `ipam` of host-local with one range set for each subnet."""
    ranges = [[{"subnet": subnet}] for subnet in subnets]
    return {"type": "host-local", "ranges": ranges, **members}


def without(config: Config, *keys: str) -> Config:
    """A configuration that lacks some keys."""
    return {key: value for key, value in config.items() if key not in keys}


def changed(config: Config, place: str, value: Any) -> Config:
    """A copy with another value at a place such as `ipam.ranges[0][0].subnet`."""
    copied = copy.deepcopy(config)
    *steps, last = _steps(place)
    target: Any = copied
    for step in steps:
        target = target.setdefault(step, {}) if isinstance(step, str) else target[step]
    target[last] = value
    return copied


def _steps(place: str) -> list[str | int]:
    parts = re.findall(r"[^.\[\]]+", place)
    return [int(part) if part.isdigit() else part for part in parts]


def collected(config: Config, *valid: Endpoint) -> Config:
    """The configuration of a GC to which these endpoints are valid."""
    return config | {"cni.dev/valid-attachments": [endpoint.attachment for endpoint in valid]}


def leases(network_name: str = "blue", directory: Path = LEASES) -> dict[str, tuple[str, str]]:
    """The addresses in host-local's files: address to (container ID, interface name)."""
    return dict(sorted(_leases(directory / network_name)))


def _leases(directory: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    for file in directory.glob("*"):
        if re.fullmatch(r"[0-9a-f:.]+", file.name) and file.is_file():
            container_id, _, ifname = file.read_bytes().decode("latin-1").partition("\r\n")
            yield file.name, (container_id, ifname)


def addresses(result: Config) -> list[str]:
    """The addresses of a result, without prefix lengths."""
    return [ip["address"].partition("/")[0] for ip in result.get("ips", [])]
