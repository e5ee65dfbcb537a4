"""Sandboxes by what people call them: a path, a name, or the ID of a running container."""

import json
import os
from collections.abc import Iterator
from hashlib import sha512
from pathlib import Path
from typing import Any, NamedTuple

from cnm_core.cli.main import NOT_FOUND, Failure
from cnm_core.errors import InvalidNetNS
from cnm_core.kernel.netns import open_netns

_NAMED = ("/run/netns", "/var/run/netns")
# Where OCI runtimes keep the state of containers: for podman and CRI-O, for containerd and
# nerdctl (a directory a namespace), for Docker.
_STATE = ("/run/runc", "/run/crun", "/run/containerd/runc/*", "/run/docker/runtime-runc/*")


class Named(NamedTuple):
    """A sandbox: the container ID that runtimes know it by, and the path of its namespace."""

    container_id: str
    netns: str


def resolve(text: str) -> Named:
    """The sandbox that is meant. Raises Failure where there is none."""
    path = _path_of(text)
    found = Named(container_id_of(path), path) if path else _container(text)
    try:
        open_netns(found.netns)
    except InvalidNetNS as error:
        raise Failure(error.msg, advice=error.details, code=NOT_FOUND) from None
    return found


def may_be(text: str, container_id: str, netns: str) -> bool:
    """Whether a text means a sandbox that may be gone: its ID, the beginning of it, its path."""
    if container_id == text or (len(text) >= 12 and container_id.startswith(text)):
        return True
    path = _path_of(text) or f"{_NAMED[0]}/{text}"
    return netns == path or _same(netns, path)


def container_id_of(path: str) -> str:
    """The ID that cnitool has for a path, so that either deletes what the other added."""
    return f"cnitool-{sha512(path.encode()).hexdigest()[:20]}"


def _path_of(text: str) -> str:
    """The path of a namespace that is called by its path, or its name below /run/netns."""
    if "/" in text:
        return os.path.abspath(text)
    paths = (f"{directory}/{text}" for directory in _NAMED)
    return next((path for path in paths if text and os.path.exists(path)), "")


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _container(text: str) -> Named:
    running = {each for each in _running(text) if text}
    exact = [each for each in running if each.container_id == text]
    found = exact or sorted(running)
    if len(found) > 1:
        raise Failure(
            f'"{text}" is the beginning of the IDs of {len(found)} containers',
            advice="give more of it",
            code=NOT_FOUND,
        )
    if not found:
        raise Failure(
            f'there is no network namespace "{text}", nor a running container of that ID',
            advice="give the path of a namespace, such as /proc/PID/ns/net",
            code=NOT_FOUND,
        )
    return found[0]


def _running(prefix: str) -> Iterator[Named]:
    """The containers whose IDs begin with that, by the state that runc and crun keep."""
    for pattern in _STATE:
        for root in Path("/").glob(pattern.lstrip("/")):
            for directory in _entries(root):
                if directory.name.startswith(prefix):
                    pid = _process(directory)
                    if pid:
                        yield Named(directory.name, f"/proc/{pid}/ns/net")


def _entries(root: Path) -> list[Path]:
    try:
        return list(root.iterdir())
    except OSError:
        return []


def _process(directory: Path) -> int:
    """The container's first process, 0 where it has ended and another may have its number."""
    for file, pid, start in (
        ("state.json", "init_process_pid", "init_process_start"),  # runc
        ("status", "pid", "process-start-time"),  # crun
    ):
        try:
            state: dict[str, Any] = json.loads((directory / file).read_bytes())
            # Field 22 of proc(5)'s stat, counted after the name, which may have spaces.
            stat = Path(f"/proc/{int(state[pid])}/stat").read_text()
            if int(stat.rpartition(")")[2].split()[19]) == int(state[start]):
                return int(state[pid])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return 0
