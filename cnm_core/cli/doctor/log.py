"""What the plugins' log says of the last day: which operations failed, and why."""

import json
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cnm_core.cli.conflists import Conflist
from cnm_core.cli.doctor.finding import OK, WARNING, Finding

AREA = "log"
_PERIOD = timedelta(days=1)
_TAIL = 4 << 20  # bytes at the end of a log that are read
_KEPT = 10  # sorts of failures, the most frequent ones


def findings(networks: Iterable[Conflist]) -> Iterator[Finding]:
    """One for each sort of failure in the logs that the networks' files, or CNM_LOG, name."""
    named = (each.get("logFile") for network in networks for each in network.plugins)
    paths = {path for path in (*named, os.environ.get("CNM_LOG")) if isinstance(path, str) and path}
    for path in sorted(map(Path, paths)):
        yield from _of(path)


def _of(path: Path) -> Iterator[Finding]:
    try:
        lines = _tail(path)
    except FileNotFoundError:
        yield Finding(AREA, str(path), OK, "not there: no operation was logged yet")
        return
    except OSError as error:
        yield Finding(AREA, str(path), WARNING, f"cannot be read: {error.strerror}")
        return
    recent = list(_recent(lines))
    failed: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in recent:
        if line.get("level") == "error":
            sort = (line.get("network", ""), line.get("command", ""), line.get("msg", ""))
            failed.setdefault(sort, []).append(line)
    if not failed:
        yield Finding(AREA, str(path), OK, f"{len(recent)} operations in the last day, none failed")
    most = sorted(failed.items(), key=lambda item: -len(item[1]))[:_KEPT]
    for (network, command, message), some in most:
        last = some[-1]
        of = f"{command} of {last['containerId']}" if "containerId" in last else command
        times = f"{len(some)} times, the last at" if len(some) > 1 else "at"
        text = f"{of} failed {times} {last['time']}: {message}"
        yield Finding(AREA, network or str(path), WARNING, text, last.get("details", ""))


def _tail(path: Path) -> list[bytes]:
    with path.open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(0, size - _TAIL))
        return log.readlines()


def _recent(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The lines of the last day; what is no line of ours, or cut, is passed over."""
    since = (datetime.now(UTC) - _PERIOD).isoformat()
    for line in lines:
        try:
            document = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(document, dict) and str(document.get("time", "")) > since:
            yield document
