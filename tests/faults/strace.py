"""Faults at a certain system call of a plugin, injected by strace."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import cni
from tests.cni import PATIENCE, Config, Endpoint, Outcome
from tests.faults.conftest import LONG

# What may change anything; between two of these a kill finds the same state.
CHANGING = "mkdir|link|symlink|rename|unlink|utimensat|write|pwrite64|ftruncate|sendto|openat"
_LINE = re.compile(rf"^(\d+) +({CHANGING})\((.*)", re.MULTILINE)


@dataclass(frozen=True)
class Point:
    """The moment before a system call: its name, and how many of that name there were."""

    syscall: str
    count: int
    arguments: str

    def __str__(self) -> str:
        return f"{self.syscall} {self.count}"


def points(trace: str) -> list[Point]:
    """Every call of a trace that changes something, in order."""
    counts: dict[str, int] = {}
    found = []
    main = trace.split(maxsplit=1)[0]
    for pid, name, arguments in _LINE.findall(trace):
        if pid == main:
            counts[name] = counts.get(name, 0) + 1
            if name != "openat" or "O_CREAT" in arguments:
                found.append(Point(name, counts[name], arguments))
    return found


def sample(points: list[Point], share: int) -> Iterator[Point]:
    """One of each `share` points; all of them in a long run."""
    yield from points if LONG else points[::share]


def traced(endpoint: Endpoint, command: str, config: Config, directory: Path) -> list[Point]:
    """Run a command that succeeds; the points at which it could have failed."""
    output = directory / "trace"
    options = [f"--output={output}", "--follow-forks", "--decode-fds=path"]
    options.append(f"--trace=/^({CHANGING})$")
    assert _run(options, endpoint, command, config).code == 0
    return points(output.read_text())


def killed(endpoint: Endpoint, command: str, config: Config, at: Point) -> bool:
    """Run a command, and kill it before a system call; whether it came to that."""
    fault = f"--inject={at.syscall}:signal=KILL:when={at.count}"
    return _run([*_quiet(at), fault], endpoint, command, config).code == -9


def failing(endpoint: Endpoint, command: str, config: Config, at: Point, error: str) -> Outcome:
    """Run a command in which one system call fails."""
    fault = f"--inject={at.syscall}:error={error}:when={at.count}"
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
