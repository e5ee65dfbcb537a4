"""What an operation was and what it took: a line in a log, a table on stderr.

`logFile` of the configuration, or CNM_LOG of the environment where there is none, names the
log; with CNM_TRACE each phase's time goes to stderr. Neither is loaded nor looked at
otherwise.
"""

from posix import (
    O_APPEND,
    O_CLOEXEC,
    O_CREAT,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_WRONLY,
    close,
    write,
)
from posix import open as open_file
from time import gmtime, strftime, time_ns

from cnm_core import json, phases
from cnm_core.cni import invocation
from cnm_core.config import formats
from cnm_core.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def note(name: str, environment: "Mapping[str, str]", text: bytes, failure: Error | None) -> None:
    """Write down an operation of the executable `name`, which failed or did not.

    An operation never fails for its log: what is wrong with that is said on stderr.
    """
    phases.ended("result")
    try:
        config = invocation.decode(text)
    except Error:
        config = {}
    if environment.get("CNM_TRACE"):
        invocation.say(_table(name, environment))
    path = config.get("logFile") or environment.get("CNM_LOG")
    if path and (failure is not None or config.get("logLevel") != "error"):
        _append(path, _line(name, environment, config, failure))


def _line(
    name: str,
    environment: "Mapping[str, str]",
    config: dict[str, object],
    failure: Error | None,
) -> dict[str, object]:
    seconds, rest = divmod(time_ns(), 10**9)
    moment = strftime("%Y-%m-%dT%H:%M:%S", gmtime(seconds))
    line: dict[str, object] = {
        "time": f"{moment}.{rest // 10**6:03}Z",
        "level": "error" if failure else "info",
        "plugin": name,
        "command": environment.get("CNI_COMMAND", ""),
        "network": config.get("name"),
        "containerId": environment.get("CNI_CONTAINERID"),
        "ifname": environment.get("CNI_IFNAME"),
        "netns": environment.get("CNI_NETNS"),
        "traceparent": environment.get("TRACEPARENT"),
        "ms": _total(),
        "phases": dict(_phases()),
    }
    if failure is not None:
        line |= {"code": failure.code, "msg": failure.msg, "details": failure.details}
    return {key: value for key, value in line.items() if value not in (None, "")}


def _table(name: str, environment: "Mapping[str, str]") -> str:
    head = f"{name} {environment.get('CNI_COMMAND', '')}: {_total():.2f} ms"
    return "\n".join([head, *(f"{ms:9.2f} {phase}" for phase, ms in _phases())])


def _phases() -> list[tuple[str, float]]:
    """Each phase and its milliseconds, in their order."""
    pairs = zip(phases.ends, phases.ends[1:], strict=False)
    found = [("start", phases.START), *((phase, end - begin) for (_, begin), (phase, end) in pairs)]
    return [(phase, nanoseconds // 1000 / 1000) for phase, nanoseconds in found]


def _total() -> float:
    return (phases.START + phases.ends[-1][1] - phases.ends[0][1]) // 1000 / 1000


def _append(path: object, line: dict[str, object]) -> None:
    """Add a line to the log in one write, which lines of other processes do not cut."""
    try:
        if type(path) is not str:
            raise ValueError(f"must be a string, got {json.shorten(path)}")
        flags = O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC
        log = open_file(formats.directory(path), flags, 0o600)
    except (OSError, ValueError) as error:
        invocation.say(f"cannot open the log: {error}")
        return
    try:
        write(log, json.dumps(line).encode("utf-8", "replace") + b"\n")
    except OSError as error:
        invocation.say(f'cannot write to the log "{path}": {error.strerror}')
    finally:
        close(log)
