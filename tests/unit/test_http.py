"""The HTTP client against sockets that answer byte by byte what they are told."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cnm_core.http import Answer, Connection, NotHttp, Server, Unanswered, Unreachable, parse_url
from cnm_core.tls import Trust
from tests import cni

Serve = Callable[..., Server]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Makes a server that sends these pieces for each request, and then closes if it is to."""
    threads: list[threading.Thread] = []
    listeners: list[socket.socket] = []

    def make(*pieces: bytes, closes: bool = True) -> Server:
        path = tmp_path / f"{len(listeners)}.sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        listeners.append(listener)
        thread = threading.Thread(target=_answer, args=(listener, pieces, closes))
        thread.start()
        threads.append(thread)
        return Server(path=str(path))

    yield make
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join()


def _answer(listener: socket.socket, pieces: tuple[bytes, ...], closes: bool) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            while connection.recv(1 << 16):
                for piece in pieces:
                    try:
                        connection.sendall(piece)
                    except OSError:
                        break
                if closes:
                    break


def get(server: Server, **members: int) -> Answer:
    """The answer to one request."""
    with Connection(server) as connection:
        return connection.request("GET", "/", seconds=cni.PATIENCE, **members)


@pytest.mark.parametrize(
    ("pieces", "body"),
    [
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"], b"hello"),
        ([b"HTTP/1.1 200 OK\r\ncontent-length:5\r\n\r\nhello, and more"], b"hello"),
        ([b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"], b""),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], b""),
        ([b"HTTP/1.0 200 OK\r\n\r\nto the ", b"end"], b"to the end"),
        ([b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-", b"Length: 0\r\n\r\n"], b""),
        ([b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"], b"ok"),
        (
            [
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                b"5\r\nhel", b"lo\r\n1;x=y\r\n \r\n", b"A\r\nwonderland\r\n0\r\nTrailer: x\r\n\r\n",
            ],
            b"hello wonderland",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("bytewise", [False, True])
def test_body(serve: Serve, pieces: list[bytes], body: bytes, bytewise: bool) -> None:
    """Bodies by length, in chunks, and to the end of the connection; also byte by byte."""
    if bytewise:
        pieces = [bytes((each,)) for each in b"".join(pieces)]
    assert get(serve(*pieces)).body == body


def test_stream_waits(tmp_path: Path) -> None:
    """A stream in which nothing happens lasts longer than an answer may take to come."""
    patience, waited = 2.0, threading.Event()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "stream.sock"))
    listener.listen()

    def serve() -> None:
        accepted, _ = listener.accept()
        with accepted:
            accepted.recv(1 << 16)
            accepted.sendall(CHUNKED + b"3\r\none\r\n")
            waited.wait(cni.PATIENCE)
            accepted.sendall(b"3\r\ntwo\r\n")

    server = threading.Thread(target=serve)
    server.start()
    seen: set[bytes] = set()
    with listener, Connection(Server(path=str(tmp_path / "stream.sock"))) as connection:
        pieces = connection.stream("GET", "/", b"", {}, seconds=patience, pause=0.1)
        with pytest.raises(Unanswered, match="closed the connection"):
            for piece in pieces:
                seen.add(piece)
                if piece:
                    since = time.monotonic()
                elif time.monotonic() - since > 1.2 * patience:
                    waited.set()
    server.join()
    assert seen == {b"one", b"", b"two"}


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"\0\1\2\r\n", "instead of a status line"),
        (b"HTTP/2 200 OK\r\n\r\n", "instead of a status line"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "instead of a status line"),
        (b"x" * 100_000, "a line of more than 65536 bytes"),
        (OK + b"no colon\r\n\r\n", '"no colon" among the header fields'),
        (OK + b"a: b\r\n" * 20_000 + b"\r\n", "among the header fields"),
        (OK + b"Content-Length: -1\r\n\r\n", 'Content-Length "-1"'),
        (OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 'Content-Length "1, 2"'),
        (OK + b"Content-Length: 2000000\r\n\r\n" + b"x" * 2_000_000, "more than 1048576 bytes"),
        (OK + b"\r\n" + b"x" * 2_000_000, "more than 1048576 bytes"),
        (CHUNKED + b"zz\r\n", "instead of the length of a chunk"),
        (CHUNKED + b"ffffffffffffffffff\r\n", "instead of the length of a chunk"),
        (CHUNKED + 2 * (b"fffff\r\n" + b"x" * 0xFFFFF + b"\r\n"), "more than 1048576"),
    ],
)  # fmt: skip
def test_no_http(serve: Serve, data: bytes, complaint: str) -> None:
    """What is not HTTP, or has no end, is told with the bytes at fault."""
    with pytest.raises(NotHttp, match=complaint):
        get(serve(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200",
        OK + b"Content-Le",
        OK + b"Content-Length: 5\r\n\r\nhell",
        CHUNKED + b"5\r\nhell",
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\n",
    ],
)
def test_half_an_answer(serve: Serve, data: bytes) -> None:
    """A connection that ends too early gives no answer."""
    with pytest.raises(Unanswered, match="closed the connection in the middle of its answer"):
        get(serve(data))


def test_patience(serve: Serve) -> None:
    """The deadline is for the whole exchange, however often something comes."""
    server = serve(OK, b"Content-Length: 5\r\n\r\nhell", closes=False)
    with Connection(server) as connection, pytest.raises(Unanswered, match=r"within 0.2 s"):
        connection.request("GET", "/", seconds=0.2)


def test_absent(tmp_path: Path) -> None:
    """A path without a socket, and a socket without a listener, are told apart."""
    path = tmp_path / "absent.sock"
    with pytest.raises(Unreachable, match="is not there"):
        get(Server(path=str(path)))
    with socket.socket(socket.AF_UNIX) as closed:
        closed.bind(str(path))
    with pytest.raises(Unreachable, match="refused the connection"):
        get(Server(path=str(path)))
    with pytest.raises(Unreachable, match="path too long"):
        get(Server(path="/" + "x" * 200))
    with pytest.raises(Unreachable, match=r'host "cnm.invalid" is not in /etc/hosts'):
        get(Server(host="cnm.invalid", port=80))


def test_connection_is_kept(serve: Serve) -> None:
    """Requests share a connection where the server agrees, and get another where it does not."""
    answer = OK + b"Content-Length: 2\r\n\r\nok"
    last = OK + b"Connection: Close\r\nContent-Length: 2\r\n\r\nok"
    for server in (serve(answer, closes=False), serve(last)):
        with Connection(server) as connection:
            for _ in range(3):
                assert connection.request("GET", "/", seconds=cni.PATIENCE).body == b"ok"


class Echo(BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        told = f"{self.path} {self.headers['Host']} {self.headers['X-Y']} ".encode() + body
        self.send_response(418, "I am a teapot")
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_a_server_of_others() -> None:
    """The standard library's server understands the request, by TCP and by name."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        host = f"localhost:{server.server_port}"
        with Connection(parse_url(f"http://{host}/ignored")) as connection:
            for _ in range(2):
                answer = connection.request(
                    "POST", "/a/b", b"c" * 99999, {"X-Y": "z"}, seconds=cni.PATIENCE
                )
                assert answer == Answer(
                    418, "I am a teapot", f"/a/b {host} z ".encode() + b"c" * 99999
                )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("unix:///run/x.sock", Server(path="/run/x.sock")),
        ("tcp://10.0.0.1:99", Server(host="10.0.0.1", port=99)),
        ("http://ipam/path", Server(host="ipam", port=80)),
        (" https://[fd00::1]:8443\n", Server(host="fd00::1", port=8443, trust=Trust())),
        ("https://[fd00::1]", Server(host="fd00::1", port=443, trust=Trust())),
    ],
)
def test_url(url: str, server: Server) -> None:
    """Where a URL leads."""
    assert parse_url(url) == server


@pytest.mark.parametrize(
    "url", ["", "x", "unix://x", "ftp://h:1", "http://", "http://:1", "tcp://h:0", "tcp://h:65536",
            "tcp://h:-1", "tcp://[::1"],
)  # fmt: skip
def test_bad_url(url: str) -> None:
    """What is none is told."""
    with pytest.raises(ValueError, match="must be unix:///PATH"):
        parse_url(url)
