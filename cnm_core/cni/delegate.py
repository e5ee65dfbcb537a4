"""Delegation of address management to another plugin (CNI spec 1.1.0, "Section 4")."""

from posix import (
    MFD_CLOEXEC,
    O_CLOEXEC,
    POSIX_SPAWN_DUP2,
    close,
    lseek,
    memfd_create,
    pipe2,
    posix_spawn,
    read,
    stat,
    waitpid,
    waitstatus_to_exitcode,
    write,
)

from cnm_core import json
from cnm_core.cni import result
from cnm_core.cni.invocation import Invocation
from cnm_core.errors import (
    DecodingFailure,
    DelegateFailed,
    Error,
    InvalidEnvironment,
    InvalidNetworkConfig,
    Reported,
)
from cnm_core.model import Addressing, Attachment, Drift, EndpointKey, Lease, Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

_REGULAR, _FORMAT = 0o100000, 0o170000
_CODE_LIMIT = 0xFFFFFFFF  # of Go's uint where that has 32 bits


class DelegatedIpam:
    """An IPAM driver that is another executable of CNI_PATH.

    It is asked when the link is there, as the Go plugins do it: dhcp talks through it.
    Every verb gets the environment and the configuration of our own call, as they came.
    """

    needs_link = True

    def __init__(self, kind: str, invocation: Invocation) -> None:
        self.pool = Pool(kind)
        self._kind = kind
        self._invocation = invocation

    def request(self, key: EndpointKey) -> Addressing:
        """ADD; where that fails, the caller is to release."""
        attachment = self._result(self._call("ADD"))
        return Addressing(attachment.leases, attachment.routes, attachment.dns)

    def release(self, key: EndpointKey) -> None:
        """DEL."""
        self._call("DEL")

    def drift(self, key: EndpointKey, leases: "Collection[Lease]") -> list[Drift]:
        """CHECK, whose error is passed on."""
        self._call("CHECK")
        return []

    def collect(self, valid: "Collection[EndpointKey]") -> None:
        """GC, with the same valid attachments."""
        self._call("GC")

    def check_status(self) -> None:
        """STATUS, whose error is passed on."""
        self._call("STATUS")

    def _result(self, output: str) -> Attachment:
        try:
            attachment = result.from_document(json.loads(output), self._invocation.version)
        except (DecodingFailure, ValueError) as failure:
            raise DelegateFailed(
                f'IPAM plugin "{self._kind}" answered ADD with what is no result: {failure}',
                details=output[:400],
            ) from None
        if not attachment.leases:
            raise DelegateFailed(f'IPAM plugin "{self._kind}" returned no address')
        return attachment

    def _call(self, command: str) -> str:
        path = find_plugin(self._kind, self._invocation.path)
        environment = {**self._invocation.environment, "CNI_COMMAND": command}
        code, output = run(path, environment, self._invocation.text)
        if code:
            raise _error_in(output, f'IPAM plugin "{path}" failed at {command} with status {code}')
        return output.decode("utf-8", "replace")


def find_plugin(name: str, path: tuple[str, ...]) -> str:
    """The first regular file of that name in the directories of CNI_PATH.

    Raises InvalidNetworkConfig for a name with a slash or one that is not found,
    InvalidEnvironment where CNI_PATH is empty.
    """
    if not _is_file_name(name):
        raise InvalidNetworkConfig(f'ipam.type: invalid plugin name "{name}"')
    if not path:
        raise InvalidEnvironment(
            "required env variables [CNI_PATH] missing", details=f'to find IPAM plugin "{name}"'
        )
    found = _find(name, path)
    if found is None:
        raise InvalidNetworkConfig(
            f'ipam.type: failed to find plugin "{name}" in path {json.dumps(path)}'
        )
    return found


def is_plugin(name: str, path: tuple[str, ...]) -> bool:
    """Whether `find_plugin` would find it."""
    return _is_file_name(name) and _find(name, path) is not None


def _find(name: str, path: tuple[str, ...]) -> str | None:
    for directory in path:
        candidate = f"{directory}/{name}"
        try:
            if stat(candidate).st_mode & _FORMAT == _REGULAR:
                return candidate
        except OSError:
            continue
    return None


def _is_file_name(name: str) -> bool:
    return "/" not in name and "\0" not in name and name not in (".", "..")


def run(path: str, environment: dict[str, str], text: bytes) -> tuple[int, bytes]:
    """Run a plugin to its end: exit status and stdout. Its stderr is ours.

    Raises DelegateFailed where it cannot be started.
    """
    # A file rather than a pipe for stdin: a plugin that answers before it has read all
    # of a long configuration would block both of us on full pipes.
    source = memfd_create("cni-config", MFD_CLOEXEC)
    out, sink = pipe2(O_CLOEXEC)
    try:
        _write_all(source, text)
        lseek(source, 0, 0)
        actions = [(POSIX_SPAWN_DUP2, source, 0), (POSIX_SPAWN_DUP2, sink, 1)]
        pid = posix_spawn(path, [path], environment, file_actions=actions)
        close(sink)
        sink = -1
        output = b"".join(iter(lambda: read(out, 1 << 16), b""))
        return waitstatus_to_exitcode(waitpid(pid, 0)[1]), output
    except OSError as error:
        raise DelegateFailed(f'cannot run plugin "{path}": {error.strerror}') from None
    finally:
        for fd in (source, out, sink):
            if fd >= 0:
                close(fd)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[write(fd, data) :]


def _error_in(output: bytes, otherwise: str) -> Error:
    """The error object that a plugin printed, or what is known without one."""
    try:
        document = json.loads(output.decode())
    except ValueError:
        document = None
    code = document.get("code") if type(document) is dict else None
    if type(document) is dict and type(code) is int and 0 < code <= _CODE_LIMIT:
        details = document.get("details") or ""
        return Reported(code, str(document.get("msg", "")), details=str(details))
    return DelegateFailed(otherwise, details=output[:400].decode("utf-8", "replace"))
