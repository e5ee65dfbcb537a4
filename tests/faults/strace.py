"""Faults at a certain system call of a plugin, injected by strace."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import cni
from tests.cni import PATIENCE, Config, Endpoint, Outcome
from tests.faults.conftest import LONG

# A call that the kernel restarts is in a trace twice: in another run it may be there once.
_LINE = re.compile(r"^(\d+) +(\w+)\((?!.* ERESTART)(.*)", re.MULTILINE)
# What may change anything; between two of these a kill finds the same state.
_CHANGING = {"mkdir", "link", "symlink", "rename", "unlink", "utimensat"}
_CHANGING |= {"write", "pwrite64", "ftruncate", "sendto"}


@dataclass(frozen=True)
class Point:
    """The moment before a system call: its name, and how many of that name there were."""

    syscall: str
    count: int
    arguments: str

    def __str__(self) -> str:
        return f"{self.syscall} {self.count}"

    @property
    def changes(self) -> bool:
        """Whether the system call may change anything."""
        return self.syscall in _CHANGING or "O_CREAT" in self.arguments


def points(trace: str) -> list[Point]:
    """Every call after exec, in order.

    Of a child process those that its parent has none of: strace counts the calls of each
    process by themselves, so that others would meet the parent first.
    """
    calls = _LINE.findall(trace)
    main = calls[0][0]
    counts: dict[tuple[str, str], int] = {}
    names = {name for process, name, _ in calls if process == main}
    found = []
    for process, name, arguments in calls[1:]:
        if process == main or name not in names:
            count = counts[process, name] = counts.get((process, name), 0) + 1
            found.append(Point(name, count, arguments))
    return found


def sample(points: list[Point], share: int) -> Iterator[Point]:
    """One of each `share` points at which something may change; all of those in a long run."""
    changing = [each for each in points if each.changes]
    yield from changing if LONG else changing[::share]


def traced(endpoint: Endpoint, command: str, config: Config, directory: Path) -> list[Point]:
    """Run a command that succeeds; the points at which it could have failed."""
    output = directory / "trace"
    options = [f"--output={output}", "--follow-forks", "--decode-fds=path"]
    assert _run(options, endpoint, command, config).code == 0
    return points(output.read_text())


def killed(endpoint: Endpoint, command: str, config: Config, at: Point) -> bool:
    """Run a command, and kill it before a system call; whether it came to that."""
    fault = f"--inject={at.syscall}:signal=KILL:when={at.count}"
    return _run([*_quiet(at), fault], endpoint, command, config).code == -9


def failing(
    endpoint: Endpoint,
    command: str,
    config: Config,
    at: Point,
    error: str,
    *,
    from_then_on: bool = False,
) -> Outcome:
    """Run a command in which one system call fails, or all of its name from that one on."""
    last = "+" if from_then_on else ""
    fault = f"--inject={at.syscall}:error={error}:when={at.count}{last}"
    return _run([*_quiet(at), fault], endpoint, command, config)


def _quiet(at: Point) -> list[str]:
    return ["--output=/dev/null", "--follow-forks", f"--trace={at.syscall}"]


def _run(options: list[str], endpoint: Endpoint, command: str, config: Config) -> Outcome:
    done = subprocess.run(
        ["strace", *options, endpoint.binary],
        input=cni.encoded(config),
        capture_output=True,
        env=cni.environment(command, **endpoint.variables),
        timeout=PATIENCE,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)
