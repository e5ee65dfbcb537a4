"""TLS where our runtime is not around us, by the standard library."""

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnm_core.http import Connection, Server, Unreachable
from cnm_core.tls import Trust
from tests import certificates, cni

ANSWER = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 100_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Answers any request over TLS, to the end of the connection."""
    authority = certificates.authority(tmp_path)
    identity = certificates.signed(tmp_path, authority, "server", "IP:127.0.0.1,DNS:localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(identity.certificate, identity.key)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=_serve, args=(listener, context))
    thread.start()
    yield Server(
        host="localhost",
        port=listener.getsockname()[1],
        trust=Trust(ca=str(authority.certificate)),
    )
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def _serve(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        try:
            with context.wrap_socket(plain, server_side=True) as connection:
                connection.recv(1 << 16)
                connection.sendall(ANSWER)
                connection.unwrap()
        except OSError:
            pass  # the client does not like us


def test_long_answer(server: Server) -> None:
    """An answer of many records, which ends with TLS's goodbye."""
    with Connection(server) as connection:
        assert len(connection.request("GET", "/", seconds=cni.PATIENCE).body) == 100_000


@pytest.mark.parametrize("trust", [Trust(), Trust(verify=False)])
def test_trust(server: Server, trust: Trust) -> None:
    """The machine's authorities do not know ours; without verification that is no matter."""
    with Connection(server.replace(trust=trust)) as connection:
        if trust.verify:
            with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
                connection.request("GET", "/", seconds=cni.PATIENCE)
        else:
            assert connection.request("GET", "/", seconds=cni.PATIENCE).status == 200


def test_files(server: Server) -> None:
    """A file that is missing is named."""
    with (
        Connection(server.replace(trust=Trust(ca="/absent.pem"))) as connection,
        pytest.raises(ValueError, match=r"/absent\.pem"),
    ):
        connection.request("GET", "/", seconds=cni.PATIENCE)
