"""The networks of this host: the files that runtimes read in /etc/cni/net.d.

As libcni reads them (libcni/conf.go): ``*.conflist`` is a list of plugins, ``*.conf`` and
``*.json`` one plugin alone. Files of ours have a top-level object ``cnm`` beside `plugins`,
which runtimes leave alone: created, labels, and the options as they were given. Files of
others, by nerdctl, podman or hand, are networks too; they are read and never rewritten.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fcntl import LOCK_EX, flock
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cnm_core.cli.main import IN_THE_WAY, NOT_FOUND, Failure
from cnm_core.config import formats
from cnm_core.inet import parse_address
from cnm_core.store import files

DEFAULT_DIRECTORY = "/etc/cni/net.d"
SUFFIXES = (".conflist", ".conf", ".json")
OURS = "cnm"
# After the files of others: a CRI runtime's default network is the first file by name.
_PREFIX = "90"
# Plugins that come after the one that makes the interface; none of them is a driver.
_CHAINED = frozenset(("portmap", "firewall", "bandwidth", "tuning", "sbr", "loopback", "dnsname"))

Document = dict[str, Any]


@dataclass(frozen=True)
class Damaged:
    """A file that is no network, and why."""

    path: Path
    problem: str


@dataclass(frozen=True)
class Conflist:
    """A network as its file says it. `version` is its cniVersion, "" where it has none."""

    path: Path
    name: str
    version: str
    plugins: tuple[Document, ...]
    document: Document = field(repr=False)

    @cached_property
    def id(self) -> str:
        """64 hexadecimal digits that follow from the name, as nerdctl and podman have them."""
        return sha256(self.name.encode()).hexdigest()

    @cached_property
    def driver_config(self) -> Document:
        """The plugin object that makes the interface: the first that is not a chained one."""
        found = (each for each in self.plugins if each["type"] not in _CHAINED)
        return next(found, self.plugins[0])

    @property
    def driver(self) -> str:
        """The type of that plugin, as in bridge."""
        kind: str = self.driver_config["type"]
        return kind

    @property
    def is_overlay(self) -> bool:
        """Whether it is a network over many hosts."""
        return self.driver == "overlay"

    @property
    def scope(self) -> str:
        """Docker's word for how far it reaches: local or global."""
        return "global" if self.is_overlay else "local"

    @property
    def ipam(self) -> Document:
        """Its `ipam` object, {} where it has none."""
        return _object(self.driver_config, "ipam")

    @property
    def ranges(self) -> list[Document]:
        """Objects with a `subnet`: those of `ipam` in host-local's words, and an overlay's."""
        pools = _objects(self.ipam.get("pools"))  # of a remote IPAM driver
        if self.is_overlay:
            pools = _objects(self.driver_config.get("subnets"))
        found = [self.ipam, *_ranges(self.ipam.get("ranges")), *pools]
        return [each for each in found if each.get("subnet")]

    @cached_property
    def subnets(self) -> tuple[str, ...]:
        """The networks in CIDR notation that it takes addresses from, each once."""
        static = (each.get("address") for each in _objects(self.ipam.get("addresses")))
        return tuple(dict.fromkeys(_networks([*(each["subnet"] for each in self.ranges), *static])))

    @property
    def is_ours(self) -> bool:
        """Whether `cnm network create` made it."""
        return isinstance(self.document.get(OURS), dict)

    @property
    def cluster(self) -> str:
        """The cluster whose network cnm made it for, "" for none."""
        return str(self._ours.get("cluster", ""))

    @property
    def by_agent(self) -> bool:
        """Whether the agent wrote it, for a network that another host has made."""
        return self._ours.get("byAgent") is True

    @property
    def owner(self) -> str:
        """The tool whose file it is: cnm, nerdctl, podman; "" where none left its mark."""
        if self.is_ours:
            return OURS
        if "nerdctlID" in self.document:
            return "nerdctl"
        arguments = [_object(each, "args") for each in (self.document, *self.plugins)]
        keys = {key for each in arguments for key in each}
        return "podman" if any(key.startswith("podman_") for key in keys) else ""

    @cached_property
    def labels(self) -> dict[str, str]:
        """Labels that cnm, nerdctl or podman gave it."""
        found = _object(_object(self.document, OURS), "labels")
        found = found or _object(self.document, "nerdctlLabels")
        for each in (self.document, *self.plugins):
            found = found or _object(_object(each, "args"), "podman_labels")
        return {key: str(value) for key, value in found.items()}

    @property
    def options(self) -> dict[str, str]:
        """The options (-o) that it was created with, where that is known."""
        return {key: str(value) for key, value in _object(self._ours, "options").items()}

    @property
    def ipam_options(self) -> dict[str, str]:
        """The IPAM driver's options (--ipam-opt) that it was created with."""
        return {key: str(value) for key, value in _object(self._ours, "ipamOptions").items()}

    @cached_property
    def created(self) -> str:
        """When it was made (RFC 3339); for files of others, when the file last changed."""
        if isinstance(self._ours.get("created"), str):
            return str(self._ours["created"])
        try:
            seconds = self.path.stat().st_mtime
        except OSError:
            return ""
        return timestamp(datetime.fromtimestamp(seconds, UTC))

    @property
    def internal(self) -> bool:
        """Whether it has no way out, as its owner marks that."""
        config = self.driver_config
        if self.owner in ("nerdctl", "podman"):
            return self.driver == "bridge" and config.get("isGateway") is not True
        return self._ours.get("internal") is True or config.get("internal") is True

    def has_version(self, version: int) -> bool:
        """Whether one of its subnets is of that IP version, 4 or 6."""
        return any((":" in subnet) == (version == 6) for subnet in self.subnets)

    def declares(self, capability: str) -> bool:
        """Whether a plugin of it takes a capability, such as portMappings, from the runtime."""
        return any(_object(each, "capabilities").get(capability) is True for each in self.plugins)

    @property
    def _ours(self) -> Document:
        return _object(self.document, OURS)


class Directory:
    """A directory of networks. As a context manager it is locked against other changes."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._fd = -1

    def __enter__(self) -> Self:
        """Lock the directory itself, so that no file but networks is ever in it."""
        files.make_directories(str(self.path), 0o755)
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            flock(self._fd, LOCK_EX)
        except OSError as error:
            raise files.failure("lock", str(self.path), error) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def read(self) -> tuple[list[Conflist], list[Damaged]]:
        """All networks by their names, and the files that are none. Raises Failure."""
        networks: list[Conflist] = []
        damaged: list[Damaged] = []
        for path in self._paths():
            try:
                networks.append(read(path))
            except FileNotFoundError:
                continue  # removed since the directory was listed
            except (ValueError, OSError) as error:
                problem = error.strerror if isinstance(error, OSError) else None
                damaged.append(Damaged(path, problem or str(error)))
        return sorted(networks, key=lambda each: each.name), damaged

    def find(self, name: str) -> Conflist:
        """The network of that name, ID, or beginning of an ID that no other has.

        Raises Failure where there is none, or more than one.
        """
        networks, damaged = self.read()
        for each in networks:
            if name in (each.name, each.id):
                return each
        found = [each for each in networks if name and each.id.startswith(name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise Failure(
                f'"{name}" is the beginning of the IDs of {len(found)} networks',
                advice="give more of it, or the name",
                code=NOT_FOUND,
            )
        broken = f"; {damaged[0].path} cannot be read: {damaged[0].problem}" if damaged else ""
        raise Failure(
            f'network "{name}" not found in {self.path}{broken}',
            advice="see cnm network ls",
            code=NOT_FOUND,
        )

    def write(self, document: Document, mode: int = 0o644) -> Path:
        """Write a new network, whole or not at all; the directory must be locked.

        Raises Failure where its name or its file is there already.
        """
        name = document["name"]
        networks, _ = self.read()
        for each in networks:
            if each.name == name:
                raise exists(name, each.path)
        path = self.path / f"{_PREFIX}-{name}.conflist"
        new = files.temporary(str(path))
        try:
            files.write_whole(new, json.dumps(document, indent=2) + "\n", mode)
            with open(new, "rb") as written:
                os.fchmod(written.fileno(), mode)  # runtimes read it, whatever our umask
                os.fsync(written.fileno())
            os.link(new, path)
            os.fsync(self._fd)
        except FileExistsError:
            raise exists(name, path) from None
        except OSError as error:
            raise files.failure("write", str(path), error) from None
        finally:
            files.remove(new)
        return path

    def remove(self, network: Conflist) -> None:
        """Remove a network's file; it may be gone."""
        files.remove(str(network.path))

    def _paths(self) -> list[Path]:
        try:
            return sorted(path for path in self.path.iterdir() if path.suffix in SUFFIXES)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise files.failure("list", str(self.path), error) from None


def exists(name: str, path: Path) -> Failure:
    """The failure of making a network whose name is taken."""
    return Failure(
        f'network with name "{name}" already exists: {path}',
        advice=f"choose another name, or remove it first: cnm network rm {name}",
        code=IN_THE_WAY,
    )


def read(path: Path) -> Conflist:
    """The network in a file. Raises ValueError saying what is wrong with it, and OSError."""
    if path.exists() and not path.is_file():
        raise ValueError("is not a file")  # a FIFO above all, which would be waited for
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    return parse(path, document)


def parse(path: Path, document: Any) -> Conflist:
    """The network that the content of a file is. Raises ValueError saying what is wrong."""
    if not isinstance(document, dict):
        raise ValueError("not an object")
    plugins: Any = [document]
    if path.suffix == ".conflist" or "plugins" in document:
        plugins = document.get("plugins") or []
    if not isinstance(plugins, list) or not plugins:
        raise ValueError("plugins: must be a list of at least one plugin")
    for index, plugin in enumerate(plugins):
        place = "" if plugin is document else f"plugins[{index}]"
        if not isinstance(plugin, dict):
            raise ValueError(f"{place}: must be an object")
        if not isinstance(plugin.get("type"), str) or not plugin["type"]:
            raise ValueError(f"{place}.type: is missing".lstrip("."))
    name, version = document.get("name"), document.get("cniVersion") or ""
    if not isinstance(name, str) or not name:
        raise ValueError("name: is missing")
    try:
        formats.name(name)
    except ValueError as error:
        raise ValueError(f"name: {error}") from None
    if not isinstance(version, str):
        raise ValueError("cniVersion: must be a string")
    return Conflist(path, name, version, tuple(plugins), document)


def timestamp(moment: datetime) -> str:
    """A moment as RFC 3339 has it, in UTC and to the microsecond."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _object(document: Document, key: str) -> Document:
    """An object of a document, {} where it has none of that name."""
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _ranges(sets: object) -> Iterator[Document]:
    for alternatives in sets if isinstance(sets, list) else ():
        yield from _objects(alternatives)


def _objects(values: object) -> Iterator[Document]:
    for each in values if isinstance(values, list) else ():
        if isinstance(each, dict):
            yield each


def _networks(texts: Sequence[object]) -> Iterator[str]:
    for text in texts:
        try:
            yield str(parse_address(str(text)).network)
        except ValueError:
            continue
