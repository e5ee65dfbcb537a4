"""TLS from a client's side, over a socket that is connected already."""

from _socket import socket as open_socket
from errno import ECONNRESET
from posix import stat

from cnm_core.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Pump = Callable[[bytes, bytes], tuple[bytes, bytes, bool, bool]]

# Where distributions have the authorities that they trust.
_AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_PIECE = 64 << 10


class Trust(Record):
    """Whom to believe, and who we are: paths of PEM files, "" for none.

    Without `ca` the distribution's authorities are believed; without `verify` anybody is.
    """

    ca: str = ""
    certificate: str = ""
    key: str = ""
    verify: bool = True


class TlsSocket:
    """What `recv` and `sendall` of a socket are, through TLS.

    `patient` is called before each wait for the other side: it sets the socket's timeout.
    Raises ValueError for files that cannot be used, OSError where hands cannot be shaken.
    """

    def __init__(
        self, socket: open_socket, host: str, trust: Trust, patient: "Callable[[], None]"
    ) -> None:
        self._socket = socket
        self._patient = patient
        self._pump = _engine(host, trust)
        self._plain, self._closed = b"", False
        while not self._turn(b""):
            self._feed()

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        self._turn(data)

    def recv(self, size: int) -> bytes:
        """What has come, at most so many bytes; b"" once the other side has said goodbye."""
        while not self._plain and not self._closed:
            self._feed()
        data, self._plain = self._plain[:size], self._plain[size:]
        return data

    @property
    def pending(self) -> bool:
        """Whether `recv` has something to give without waiting."""
        return bool(self._plain) or self._closed

    def _feed(self) -> None:
        self._patient()
        data = self._socket.recv(_PIECE)
        if not data:
            raise ConnectionResetError(ECONNRESET, "the connection ended without TLS's goodbye")
        self._turn(b"", data)

    def _turn(self, plain: bytes, received: bytes = b"") -> bool:
        """Whether hands are shaken."""
        came, wire, shaken, self._closed = self._pump(received, plain)
        self._plain += came
        if wire:
            self._patient()
            self._socket.sendall(wire)
        return shaken


def _engine(host: str, trust: Trust) -> "Pump":
    ca = (trust.ca or _authorities()) if trust.verify else None
    arguments = host, ca, trust.certificate or None, trust.key or None
    try:
        from _cnm import tls_new, tls_pump  # type: ignore[import-not-found]
    except ImportError:
        return _standard_engine(*arguments)
    handle = tls_new(*arguments)
    return lambda received, plain: tls_pump(handle, received, plain)


def _authorities() -> str:
    for path in _AUTHORITIES:
        try:
            stat(path)
        except OSError:
            continue
        return path
    raise ValueError(f"no trusted authorities: none of {', '.join(_AUTHORITIES)} is there")


def _standard_engine(host: str, ca: str | None, certificate: str | None, key: str | None) -> "Pump":
    """The same by the standard library, where our runtime is not around us."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for path, load in ((ca, context.load_verify_locations), (certificate, None)):
        try:
            if path is not None and load is not None:
                load(path)
            elif path is not None:
                context.load_cert_chain(path, key)
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
    wire_in, wire_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(wire_in, wire_out, server_hostname=host)

    def pump(received: bytes, plain: bytes) -> tuple[bytes, bytes, bool, bool]:
        wire_in.write(received)
        came, shaken, closed = b"", False, False
        try:
            connection.do_handshake()
            shaken = True
            if plain:
                connection.write(plain)
            while piece := connection.read(_PIECE):
                came += piece
            closed = True
        except ssl.SSLWantReadError:
            pass
        return came, wire_out.read(), shaken, closed

    return pump
