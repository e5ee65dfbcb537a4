"""What every executable does around its verbs: read the call, answer, and leave at once."""

from posix import _exit, environ, write

from cnm_core import __version__, json
from cnm_core.cni import invocation
from cnm_core.cni.invocation import VERSIONS, Invocation
from cnm_core.errors import Error, KernelRefused, advice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Plugin(Protocol):
        """The verbs of an executable. Each raises Error; `add` returns the result."""

        def add(self, call: Invocation) -> dict[str, object]: ...
        def delete(self, call: Invocation) -> None: ...
        def check(self, call: Invocation) -> None: ...
        def collect(self, call: Invocation) -> None: ...
        def status(self, call: Invocation) -> None: ...


def run(name: str, make: "Callable[[], Plugin]") -> None:
    """Serve one call of the executable `name` and end the process.

    `make` imports and returns the plugin; VERSION does without. The process ends by
    _exit: nothing is left to flush, and taking the interpreter apart would cost a fifth
    of the whole call.
    """
    environment = {
        key.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape")
        for key, value in environ.items()
    }
    text = b""
    plugin = call = failure = None
    try:
        command = invocation.command_of(environment)
        if not command:
            invocation.say(_about(name))
            _exit(0)
        if command == "VERSION":
            answer = _supported()
        else:
            text = invocation.read_stdin()
            call = invocation.receive(command, environment, text)
            plugin = make()
            answer = _serve(plugin, call)
    except Error as error:
        failure = error
    except BaseException as error:
        failure = _unforeseen(error)
    if failure is not None:
        answer = _error_object(failure, text)
    if "CNM_TRACE" in environment or "CNM_LOG" in environment or b'"logFile"' in text:
        from cnm_core.cni import journal

        journal.note(name, environment, text, failure)
    if answer and not _print(json.dumps(answer, indent="    ")):
        if plugin is not None and call is not None and call.command == "ADD" and failure is None:
            _take_back(plugin, call)
        _exit(1)
    _exit(0 if failure is None else 1)


def _serve(plugin: "Plugin", call: Invocation) -> dict[str, object]:
    if call.command == "ADD":
        return plugin.add(call)
    if call.command == "DEL":
        plugin.delete(call)
    elif call.command == "CHECK":
        plugin.check(call)
    elif call.command == "GC":
        plugin.collect(call)
    else:
        plugin.status(call)
    return {}


def _take_back(plugin: "Plugin", call: Invocation) -> None:
    """Undo an ADD of which nobody can be told; DEL undoes the rest."""
    try:
        plugin.delete(call)
    except BaseException as error:
        invocation.say(f"cannot take back what the ADD made: {error}")


def _supported() -> dict[str, object]:
    """The answer to VERSION, which needs no configuration: without one, the newest version."""
    try:
        version = invocation.decode(invocation.read_stdin()).get("cniVersion")
    except Error:
        version = None
    return {
        "cniVersion": version if type(version) is str and version else VERSIONS[-1],
        "supportedVersions": VERSIONS,
    }


def _error_object(error: Error, text: bytes) -> dict[str, object]:
    """The error as CNI has it, in the configuration's version where that can be told."""
    try:
        version = invocation.version_of(invocation.decode(text))
    except Error:
        version = VERSIONS[-1]
    document = {"cniVersion": version, "code": error.code, "msg": error.msg}
    return {**document, "details": error.details} if error.details else document


def _unforeseen(error: BaseException) -> Error:
    """A defect of ours as an error object that says where it happened, unless it is none."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    if isinstance(error, OSError):
        what = f'"{error.filename}"' if error.filename else "a system call"
        return KernelRefused(
            error.errno or 0,
            f"the kernel refused {what}: {error.strerror}",
            details=advice(error.errno) or f"at {place}",
        )
    return Error(f"{type(error).__name__}: {error}", details=f"at {place}; please report this")


def _print(text: str) -> bool:
    """Write the answer to stdout; whether that could be done."""
    data = text.encode("utf-8", "replace") + b"\n"
    try:
        while data:
            data = data[write(1, data) :]
    except OSError as error:
        invocation.say(f"cannot write the answer to stdout: {error.strerror}")
        return False
    return True


def _about(name: str) -> str:
    versions = ", ".join(VERSIONS)
    return f"CNI {name} plugin v{__version__}\nCNI protocol versions supported: {versions}"
