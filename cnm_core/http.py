"""HTTP/1.1 (RFC 9110, RFC 9112) from a client's side, over a unix socket or TCP.

What a control plane's JSON needs and no more: one request at a time, one deadline for a
whole exchange, connections that are kept open where the server agrees. ``http.client``
would cost a plugin process 40 ms. Only what speaks to somebody imports this module.
"""

from _socket import (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    IPPROTO_TCP,
    SO_KEEPALIVE,
    SOCK_CLOEXEC,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_KEEPCNT,
    TCP_KEEPIDLE,
    TCP_KEEPINTVL,
)
from _socket import socket as open_socket
from errno import EACCES, ECONNREFUSED, ENOENT
from posix import O_CLOEXEC, O_RDONLY, close, read
from posix import open as open_file
from select import POLLIN, poll
from time import monotonic

from cnm_core.inet import format_ip, parse_ip
from cnm_core.record import Record
from cnm_core.tls import TlsSocket, Trust

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_HEAD_LIMIT = 64 << 10
_PIECE = 64 << 10
_PORTS = {"http": 80, "https": 443, "tcp": 80}
_NO_BODY = (204, 304)
# A stream whose other side is gone without a word ends after IDLE + COUNT * INTERVAL seconds.
_KEEPALIVE = {TCP_KEEPIDLE: 10, TCP_KEEPINTVL: 5, TCP_KEEPCNT: 2}


class Unanswered(Exception):
    """No answer, or a part of one: refused, timed out, closed. Another time there may be one."""


class Unreachable(Unanswered):
    """No connection, so that nothing was asked."""


class NotHttp(Exception):
    """What came is no answer by HTTP, or more than was asked for."""


class Server(Record):
    """Where a server listens: the path of a unix socket, or a host (a name or an address) and port.

    With `trust` it is spoken to through TLS.
    """

    path: str = ""
    host: str = ""
    port: int = 0
    trust: Trust | None = None

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.trust else 'http'}://{host}:{self.port}"


class Answer(Record):
    """A whole answer. `status` and `reason` are the status line's."""

    status: int
    reason: str
    body: bytes


def parse_url(text: str) -> Server:
    """The server of a URL: unix:///PATH, http://HOST:PORT, https://HOST:PORT, tcp://HOST:PORT.

    An IPv6 address stands in brackets; a path behind the port is left out. Raises
    ValueError with the text in its message.
    """
    scheme, _, rest = text.strip().partition("://")
    if scheme == "unix" and rest.startswith("/") and "\0" not in rest:
        return Server(path=rest)
    host, port = _host_and_port(rest.partition("/")[0])
    if scheme not in _PORTS or not host or (port and not _is_port(port)):
        raise ValueError(
            f"must be unix:///PATH, http://HOST:PORT, https://HOST:PORT or tcp://HOST:PORT, "
            f'got "{text}"'
        )
    trust = Trust() if scheme == "https" else None
    return Server(host=host, port=int(port) if port else _PORTS[scheme], trust=trust)


class Connection:
    """Requests to one server, by one connection after another. A context manager."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._socket: open_socket | None = None
        self._stream: open_socket | TlsSocket | None = None  # the socket, or TLS over it
        self._received = b""
        self._seconds = 0.0
        self._deadline = 0.0

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._stream, self._received = None, None, b""

    def request(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: "Mapping[str, str] | None" = None,
        *,
        seconds: float,
        limit: int = 1 << 20,
    ) -> Answer:
        """The answer to one request, which must be there whole after so many seconds.

        Raises Unanswered, NotHttp also for a body of more than `limit` bytes, and ValueError
        for files of the server's trust that cannot be used.
        """
        self._seconds, self._deadline = seconds, monotonic() + seconds
        try:
            self._send(_head(method, target, self._server, len(body), headers or {}) + body)
            status, reason, fields = self._read_head()
            content = self._read_body(status, fields, limit)
        except TimeoutError:
            self.close()
            raise Unanswered(f"{self._server} did not answer within {seconds:g} s") from None
        except OSError as error:
            self.close()
            raise Unanswered(f"{self._server} broke off: {error.strerror or error}") from None
        except BaseException:
            self.close()
            raise
        if not self._stays_open(fields):
            self.close()
        return Answer(status, reason, content)

    def stream(
        self,
        method: str,
        target: str,
        body: bytes,
        headers: "Mapping[str, str]",
        *,
        seconds: float,
        pause: float,
    ) -> "Iterator[bytes]":
        """The body of an answer without end, as it comes; b"" where nothing came for `pause`.

        The answer must begin within `seconds`. Raises what `request` raises, and Unanswered
        at the end of the body, for a status other than 200, and where the server is gone.
        """
        self._seconds, self._deadline = seconds, monotonic() + seconds
        try:
            self._send(_head(method, target, self._server, len(body), headers) + body)
            self._keep_alive()
            status, reason, fields = self._read_head()
            if status != 200:
                text = self._read_body(status, fields, _HEAD_LIMIT)
                raise Unanswered(f"{self._server} answered {status} {reason}: {_shown(text)}")
            for piece in self._pieces(fields):
                yield piece
                while not self._comes_within(pause):
                    yield b""
                self._deadline = monotonic() + seconds
            raise Unanswered(f"{self._server} ended its answer")
        except TimeoutError:
            raise Unanswered(f"{self._server} did not answer within {seconds:g} s") from None
        except OSError as error:
            raise Unanswered(f"{self._server} broke off: {error.strerror}") from None
        finally:
            self.close()

    def _keep_alive(self) -> None:
        """Have the kernel ask whether the other side is there while it says nothing."""
        assert self._socket is not None
        if not self._server.path:
            self._socket.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE.items():
                self._socket.setsockopt(IPPROTO_TCP, option, value)

    def _comes_within(self, seconds: float) -> bool:
        """Whether there is something to receive, within that time."""
        assert self._socket is not None
        if self._received or (isinstance(self._stream, TlsSocket) and self._stream.pending):
            return True
        waiting = poll()
        waiting.register(self._socket.fileno(), POLLIN)
        return bool(waiting.poll(seconds * 1000))

    def _stays_open(self, fields: dict[str, str]) -> bool:
        if "close" in fields.get("connection", "").lower() or fields[""] == "HTTP/1.0":
            return False
        return "chunked" in fields.get("transfer-encoding", "") or "content-length" in fields

    def _send(self, data: bytes) -> None:
        if self._stream is None:
            try:
                self._stream = self._connect()
            except OSError as error:
                raise Unreachable(f"{self._server} {_refusal(error)}") from None
        self._be_patient()
        self._stream.sendall(data)

    def _connect(self) -> open_socket | TlsSocket:
        family, address = _address_of(self._server)
        self._socket = open_socket(family, SOCK_STREAM | SOCK_CLOEXEC)
        self._be_patient()
        self._socket.connect(address)
        if self._server.trust is None:
            return self._socket
        return TlsSocket(self._socket, self._server.host, self._server.trust, self._be_patient)

    def _be_patient(self) -> None:
        """Wait for the other side until the deadline and no longer."""
        assert self._socket is not None
        self._socket.settimeout(self._left())

    def _left(self) -> float:
        left = self._deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _receive(self) -> bytes:
        """The next bytes, whatever there are; b"" at the end."""
        if self._received:
            data, self._received = self._received, b""
            return data
        assert self._stream is not None
        self._be_patient()
        return self._stream.recv(_PIECE)

    def _more(self) -> bytes:
        data = self._receive()
        if not data:
            raise Unanswered(f"{self._server} closed the connection in the middle of its answer")
        return data

    def _line(self) -> bytes:
        """A line without its end."""
        data = b""
        while b"\n" not in data:
            if len(data) > _HEAD_LIMIT:
                raise NotHttp(f"a line of more than {_HEAD_LIMIT} bytes")
            data += self._more()
        line, _, self._received = data.partition(b"\n")
        return line.removesuffix(b"\r")

    def _read_head(self) -> tuple[int, str, dict[str, str]]:
        """Status, reason and header fields of the answer; the version is the field "" of them."""
        while True:
            line = self._line()
            words = line.decode("latin-1").split(" ", 2)
            if (
                len(words) < 2
                or words[0] not in ("HTTP/1.1", "HTTP/1.0")
                or not _is_status(words[1])
            ):
                raise NotHttp(f"{_shown(line)} instead of a status line")
            fields = {"": words[0], **self._fields()}
            if not words[1].startswith("1"):  # 100 Continue and its like come before the answer
                return int(words[1]), words[2] if len(words) > 2 else "", fields

    def _fields(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        size = 0
        while line := self._line():
            name, colon, value = line.decode("latin-1").partition(":")
            size += len(line)
            if not colon or size > _HEAD_LIMIT:
                raise NotHttp(f"{_shown(line)} among the header fields")
            name, value = name.lower(), value.strip()
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
        return fields

    def _read_body(self, status: int, fields: dict[str, str], limit: int) -> bytes:
        if status in _NO_BODY:
            return b""
        parts, size = [], 0
        for piece in self._pieces(fields):
            size += len(piece)
            if size > limit:
                raise NotHttp(f"an answer of more than {limit} bytes")
            parts.append(piece)
        return b"".join(parts)

    def _pieces(self, fields: dict[str, str]) -> "Iterator[bytes]":
        """The body as it comes (RFC 9112, section 6.3)."""
        if "chunked" in fields.get("transfer-encoding", "").lower():
            left = self._chunk_length()
            while left:
                data = self._more()
                piece, self._received = data[:left], data[left:]
                left -= len(piece)
                if not left:
                    self._line()  # the chunk's end, lest `stream` take it for a piece to come
                yield piece
                left = left or self._chunk_length()
            self._fields()
        elif "content-length" in fields:
            digits = fields["content-length"]
            if not _is_decimal(digits):
                raise NotHttp(f"Content-Length {_shown(digits.encode('latin-1'))}")
            yield from self._exactly(int(digits))
        else:
            while piece := self._receive():
                yield piece

    def _chunk_length(self) -> int:
        line = self._line()
        digits = line.partition(b";")[0].strip()
        if not digits or len(digits) > 15 or digits.strip(b"0123456789abcdefABCDEF"):
            raise NotHttp(f"{_shown(line)} instead of the length of a chunk")
        return int(digits, 16)

    def _exactly(self, length: int) -> "Iterator[bytes]":
        while length:
            data = self._more()
            self._received = data[length:]
            yield data[:length]
            length -= min(length, len(data))


def _head(
    method: str, target: str, server: Server, length: int, headers: "Mapping[str, str]"
) -> bytes:
    host = "localhost" if server.path else str(server).partition("://")[2]
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", f"Content-Length: {length}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _address_of(server: Server) -> "tuple[int, str | tuple[str, int]]":
    """The family and the address to connect to."""
    if server.path:
        return AF_UNIX, server.path
    try:
        ip = parse_ip(server.host)
    except ValueError:
        ip = _resolve(server.host)
    return (AF_INET if len(ip) == 4 else AF_INET6), (format_ip(ip), server.port)


def _resolve(host: str) -> bytes:
    """The address that /etc/hosts has for a name, of which localhost is always one.

    More than that is the C library's resolver, which a static executable cannot load.
    """
    for line in _hosts().splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        if host in names:
            try:
                return parse_ip(address)
            except ValueError:
                continue
    if host == "localhost":
        return bytes((127, 0, 0, 1))
    raise Unreachable(f'host "{host}" is not in /etc/hosts; give its address instead of its name')


def _hosts() -> str:
    try:
        fd = open_file("/etc/hosts", O_RDONLY | O_CLOEXEC)
    except OSError:
        return ""
    try:
        return read(fd, 1 << 20).decode("utf-8", "replace")
    finally:
        close(fd)


def _refusal(error: OSError) -> str:
    """Why a connection could not be made, in words that tell what to do."""
    if isinstance(error, TimeoutError):
        return "did not accept the connection in time"
    if error.errno == ENOENT:
        return "is not there"
    if error.errno == ECONNREFUSED:
        return "refused the connection: nobody listens there"
    if error.errno == EACCES:
        return "may not be connected to: permission denied"
    return f"cannot be reached: {error.strerror or error}"


def _host_and_port(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        return host if bracket else "", rest.removeprefix(":")
    host, _, port = text.partition(":")
    return host, port


def _is_port(text: str) -> bool:
    return _is_decimal(text) and 0 < int(text) < 65536


def _is_decimal(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 16


def _is_status(text: str) -> bool:
    return _is_decimal(text) and len(text) == 3


def _shown(data: bytes) -> str:
    """Bytes of a stranger for a message."""
    text = data[:60].decode("utf-8", "replace")
    return '"' + "".join(char if char.isprintable() else "\ufffd" for char in text) + '"'
