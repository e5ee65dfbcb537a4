"""Docker plugins: where they are found, and how one is called.

The protocol is POST /METHOD with JSON in both directions (Docker's "Plugins API"); where a
plugin listens tells its socket, or a file that names its address ("Plugin discovery").
"""

from posix import lstat, stat

from cnm_core import json
from cnm_core.config import formats, values
from cnm_core.errors import DelegateFailed, InvalidNetworkConfig, TryAgainLater
from cnm_core.http import Connection, NotHttp, Server, Unanswered, Unreachable, parse_url
from cnm_core.store import files
from cnm_core.tls import Trust

SOCKETS = "/run/docker/plugins"
SPECS = ("/etc/docker/plugins", "/usr/lib/docker/plugins")
_MEDIA_TYPE = "application/vnd.docker.plugins.v1.2+json"
_HEADERS = {"Accept": _MEDIA_TYPE, "Content-Type": _MEDIA_TYPE}
_SOCKET, _FORMAT = 0o140000, 0o170000
_SHOWN = 400
_ABSENT = "start the driver, and call again"


class Absent(TryAgainLater):
    """The plugin is not there, or takes no connection: it was asked nothing."""


class Refused(DelegateFailed):
    """The plugin answered with an error of its own."""


class Unknown(DelegateFailed):
    """The plugin does not know the method."""


def find(name: str) -> str | None:
    """The socket, .spec or .json file of a plugin, in Docker's order; None where there is none."""
    for path in (f"{SOCKETS}/{name}.sock", f"{SOCKETS}/{name}/{name}.sock"):
        if _is_socket(path):
            return path
    for directory in SPECS:
        for suffix in ("spec", "json"):
            for path in (f"{directory}/{name}.{suffix}", f"{directory}/{name}/{name}.{suffix}"):
                if files.read_text(path, links=True) is not None:
                    return path
    return None


class Plugin:
    """An IPAM driver that speaks Docker's protocol. `seconds` is the patience for one answer.

    Each call raises Absent, Refused, TryAgainLater where no whole answer came, and
    DelegateFailed where it makes no sense. All name the driver and the method.
    """

    def __init__(self, name: str, seconds: int) -> None:
        self.name = name
        self._seconds = seconds
        self._connection: Connection | None = None

    def identity(self) -> str:
        """What changes when the plugin's process does: its socket, where it has one here."""
        server = self._server()
        if not server.path:
            return ""
        try:
            status = stat(server.path)
        except OSError:
            return ""
        return f"{status.st_ino}:{status.st_ctime_ns}"

    def activate(self) -> None:
        """Plugin.Activate: whether it is an IPAM driver at all."""
        implements = self.call("Plugin.Activate").get("Implements")
        if type(implements) is not list or "IpamDriver" not in implements:
            raise self.nonsense("Plugin.Activate", "no IpamDriver among what it implements")

    def call(self, method: str, fields: dict[str, object] | None = None) -> dict[str, object]:
        """The object that the plugin answers to a method."""
        body = b"" if fields is None else json.dumps(fields).encode()
        try:
            answer = self._open().request(
                "POST", f"/{method}", body, _HEADERS, seconds=self._seconds
            )
        except Unreachable as error:
            raise Absent(f"{self}: {error}", details=_ABSENT) from None
        except Unanswered as error:
            raise TryAgainLater(f"{self}: {method}: {error}") from None
        except NotHttp as error:
            raise self.nonsense(method, str(error)) from None
        except ValueError as error:
            raise InvalidNetworkConfig(
                f"{self}: {error}", details="see TLSConfig in its .json file"
            ) from None
        text = answer.body.decode("utf-8", "replace")
        if answer.status == 404:
            raise Unknown(f"{self} does not know {method}", details=_shown(text))
        try:
            document = json.loads(text) if text.strip() else {}
        except ValueError as error:
            if answer.status == 200:
                raise self.nonsense(method, f"what is no JSON: {error}", text) from None
            document = text
        words = _words(document)
        if answer.status != 200 or (type(document) is dict and words):
            raise Refused(f"{self} refused {method}: {words or answer.reason}")
        if type(document) is not dict:
            raise self.nonsense(method, "no object", text)
        return document

    def nonsense(self, method: str, what: str, text: str = "") -> DelegateFailed:
        """The error for an answer that cannot be meant."""
        return DelegateFailed(f"{self} answered {method} with {what}", details=_shown(text))

    def close(self) -> None:
        """End the conversation; another call begins a new one."""
        if self._connection is not None:
            self._connection.close()

    def __str__(self) -> str:
        return f'IPAM driver "{self.name}"'

    def _open(self) -> Connection:
        if self._connection is None:
            self._connection = Connection(self._server())
        return self._connection

    def _server(self) -> Server:
        path = find(self.name)
        if path is None:
            raise Absent(
                f"{self} is not there: no Docker plugin has that name",
                details=f"it would be {SOCKETS}/{self.name}.sock, or {self.name}.spec or "
                f"{self.name}.json in {' or '.join(SPECS)}",
            )
        if path.endswith(".sock"):
            return Server(path=path)
        content = files.read_text(path, links=True) or ""
        return _described(path, content) if path.endswith(".json") else _server(path, content)


def _words(document: object) -> str:
    """What the answer says went wrong: "Error" of IPAM drivers, "Err" of all others."""
    if type(document) is dict:
        document = document.get("Error") or document.get("Err") or ""
    return _shown(document if type(document) is str else json.dumps(document))


def _shown(text: str) -> str:
    """A stranger's words for a message: on one line, and not without end."""
    return " ".join(text[:_SHOWN].split())


def _server(path: str, url: str) -> Server:
    try:
        server = parse_url(url)
    except ValueError as error:
        raise InvalidNetworkConfig(f'Docker plugin file "{path}": {error}') from None
    return server


def _described(path: str, content: str) -> Server:
    """What a .json file says: {"Addr": URL, "TLSConfig": {...}}."""
    try:
        document = json.loads(content)
    except ValueError as error:
        raise InvalidNetworkConfig(f'Docker plugin file "{path}" is not JSON: {error}') from None
    place = f'Docker plugin file "{path}": '
    fields = values.mapping(document, place)
    server = _server(path, values.required(fields, "Addr", place, values.text))
    trust = values.optional(fields, "TLSConfig", place, _trust, server.trust)
    return server if server.path else server.replace(trust=trust)


def _trust(value: object, place: str) -> Trust:
    """Docker's TLSConfig, by which a server is not verified where no authority is named."""
    fields = values.mapping(value, place)
    path = values.checked(formats.directory)
    ca = values.optional(fields, "CAFile", place, path, "")
    skip = values.optional(fields, "InsecureSkipVerify", place, values.boolean, False)
    return Trust(
        ca,
        values.optional(fields, "CertFile", place, path, ""),
        values.optional(fields, "KeyFile", place, path, ""),
        verify=bool(ca) and not skip,
    )


def _is_socket(path: str) -> bool:
    try:
        return lstat(path).st_mode & _FORMAT == _SOCKET
    except OSError:
        return False
