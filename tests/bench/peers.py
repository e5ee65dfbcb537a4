"""The plugin directories under comparison, and how one plugin process is started and timed."""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Self

from world import PATH

OURS = "ours"
PIPE_BYTES = 65536
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Peer:
    """A directory of CNI plugins; index tells its bridges, subnets and networks from others'."""

    index: int
    label: str
    directory: Path
    given: str  # the directory as reports show it

    def executable(self, plugin: str) -> str:
        return str(self.directory / plugin)

    def has(self, plugin: str) -> bool:
        return os.access(self.executable(plugin), os.X_OK)


@dataclass(frozen=True)
class Attachment:
    """Which interface of which container a call is about."""

    container_id: str
    netns: str
    ifname: str = "eth0"


@dataclass(frozen=True)
class Outcome:
    """A finished process; times are in milliseconds, cpu that of all its processes."""

    exit_code: int
    stdout: bytes
    wall: float
    cpu: float


@dataclass(frozen=True)
class Orphans:
    """Processes that plugins left behind: how many, for how long, and their CPU time, in ms."""

    count: int
    wall: float
    cpu: float


def container_id(number: int) -> str:
    """An ID of the length that container runtimes use."""
    return f"{number:064x}"


def environment(peer: Peer, verb: str, attachment: Attachment | None = None) -> dict[str, str]:
    """What a runtime sets for one call."""
    variables = {"PATH": PATH, "CNI_COMMAND": verb, "CNI_PATH": str(peer.directory)}
    if attachment is not None:
        variables |= {
            "CNI_CONTAINERID": attachment.container_id,
            "CNI_NETNS": attachment.netns,
            "CNI_IFNAME": attachment.ifname,
        }
    return variables


class Process:
    """A started process; its stdin was in the pipe beforehand, so that nobody waits for us."""

    __slots__ = ("_begun", "_output", "_pid")

    def __init__(self, pid: int, output: int, begun: float) -> None:
        self._pid = pid
        self._output = output
        self._begun = begun

    @classmethod
    def start(cls, argv: list[str], env: dict[str, str], stdin: bytes, stderr: int) -> Self:
        if len(stdin) > PIPE_BYTES:
            raise ValueError(f"{len(stdin)} bytes on stdin do not fit into a pipe")
        source, feed = os.pipe()
        os.write(feed, stdin)
        os.close(feed)
        output, sink = os.pipe()
        actions = [
            (os.POSIX_SPAWN_DUP2, source, 0),
            (os.POSIX_SPAWN_DUP2, sink, 1),
            (os.POSIX_SPAWN_DUP2, stderr, 2),
        ]
        begun = perf_counter()
        try:
            pid = os.posix_spawn(argv[0], argv, env, file_actions=actions)
        except OSError:
            os.close(output)
            raise
        finally:
            os.close(source)
            os.close(sink)
        return cls(pid, output, begun)

    def finish(self) -> Outcome:
        """Read stdout to its end and wait."""
        chunks = []
        while chunk := os.read(self._output, PIPE_BYTES):
            chunks.append(chunk)
        _, status, usage = os.wait4(self._pid, 0)
        ended = perf_counter()
        os.close(self._output)
        return Outcome(
            exit_code=os.waitstatus_to_exitcode(status),
            stdout=b"".join(chunks),
            wall=(ended - self._begun) * 1e3,
            cpu=(usage.ru_utime + usage.ru_stime) * 1e3,
        )


def adopt_orphans() -> None:
    """Become the parent of what plugins leave behind."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def await_orphans() -> Orphans:
    """Wait for all that finished processes left behind, so that nobody else pays for it."""
    count, cpu = 0, 0.0
    begun = perf_counter()
    while True:
        try:
            _, _, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return Orphans(count, (perf_counter() - begun) * 1e3, cpu)
        count += 1
        cpu += (usage.ru_utime + usage.ru_stime) * 1e3
