"""A real etcd, in the network namespace of whoever starts it."""

import json
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests import cni
from tests.certificates import Identity
from tests.iproute import HOST, Netns

_PREFIX = "cnm/v1/default/"
# Variables of etcdctl, which has less patience by itself.
CLIENT = {
    "PATH": cni.SEARCH_PATH,
    "ETCDCTL_API": "3",
    "ETCDCTL_DIAL_TIMEOUT": f"{cni.PATIENCE}s",
    "ETCDCTL_COMMAND_TIMEOUT": f"{cni.PATIENCE}s",
}


@dataclass
class Etcd:
    """One server with a directory of its own; it may be stopped, killed and started again.

    Alone, unless `members` has the names and peers' URLs of all.
    """

    directory: Path
    address: str = "127.0.0.1"
    port: int = 2379
    netns: Netns = HOST
    identity: Identity | None = None
    authority: Identity | None = None
    name: str = "default"
    members: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients find it."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{'https' if self.identity else 'http'}://{host}:{self.port}"

    @property
    def peer_url(self) -> str:
        """Where other members find it."""
        return self.url.replace("https", "http").replace(f":{self.port}", f":{self.port + 1}")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.begin()
        self.await_answer()

    def begin(self) -> None:
        """Start it."""
        members = self.members or {self.name: self.peer_url}
        command = [
            *(["ip", "netns", "exec", self.netns.name] if self.netns.name else []),
            "etcd",
            f"--data-dir={self.directory}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            f"--name={self.name}",
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster={','.join(map('='.join, members.items()))}",
            "--unsafe-no-fsync",
            *self._tls_arguments(),
        ]
        with (self.directory.parent / f"{self.directory.name}.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def await_answer(self) -> None:
        """Wait until it answers."""
        assert self._process is not None
        deadline = time.monotonic() + cni.PATIENCE
        while not self._answers():
            assert self._process.poll() is None, "etcd ended"
            assert time.monotonic() < deadline, "etcd does not answer"
            time.sleep(0.05)

    def stop(self) -> None:
        """End it in its own way."""
        self._end(kill=False)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._end(kill=True)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """It takes connections and requests, and answers none."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def call(self, target: str, **question: object) -> dict[str, object]:
        """The answer to a request of the JSON gateway."""
        with self.netns.entered():
            request = urllib.request.Request(self.url + target, json.dumps(question).encode())
            with urllib.request.urlopen(
                request, timeout=cni.PATIENCE, context=self._context()
            ) as answer:
                fields: dict[str, object] = json.load(answer)
                return fields

    def enable_users(self) -> None:
        """Have it take no request but from root, whose password is "secret"."""
        self.call("/v3/auth/user/add", name="root", password="secret")
        self.call("/v3/auth/role/add", name="root")
        self.call("/v3/auth/user/grant", user="root", role="root")
        self.call("/v3/auth/enable")

    def requests(self) -> int:
        """How many requests of the key-value service it has had."""
        with self.netns.entered():
            answer = urllib.request.urlopen(self.url + "/metrics", context=self._context())
            lines = answer.read().decode().splitlines()
        counted = [
            line.rpartition(" ")[2]
            for line in lines
            if line.startswith("grpc_server_started_total{") and "etcdserverpb.KV" in line
        ]
        return sum(map(int, counted))

    def put(self, key: str, value: str) -> None:
        """Write a key as somebody else would, below those of the default cluster."""
        self.call("/v3/kv/put", key=_encoded(_PREFIX + key), value=_encoded(value))

    def delete(self, key: str) -> None:
        """Remove a key of the default cluster."""
        self.call("/v3/kv/deleterange", key=_encoded(_PREFIX + key))

    def keys(self, prefix: str = "") -> dict[str, str]:
        """The entries of the default cluster below a prefix."""
        start = _PREFIX + prefix
        end = start[:-1] + chr(ord(start[-1]) + 1)
        answer = self.call("/v3/kv/range", key=_encoded(start), range_end=_encoded(end))
        found = answer.get("kvs", [])
        assert isinstance(found, list)
        return {
            _decoded(each["key"]).removeprefix(_PREFIX): _decoded(each.get("value", ""))
            for each in found
        }

    def _tls_arguments(self) -> list[str]:
        """Have clients show certificates of the authority, too."""
        if self.identity is None or self.authority is None:
            return []
        return [
            f"--cert-file={self.identity.certificate}",
            f"--key-file={self.identity.key}",
            f"--trusted-ca-file={self.authority.certificate}",
            "--client-cert-auth",
        ]

    def _context(self) -> ssl.SSLContext | None:
        if self.identity is None or self.authority is None:
            return None
        context = ssl.create_default_context(cafile=self.authority.certificate)
        context.load_cert_chain(self.identity.certificate, self.identity.key)
        return context

    def _answers(self) -> bool:
        """Whether it does what it is asked: it may answer before the members have a leader."""
        try:
            return "leader" in self.call("/v3/maintenance/status")
        except (OSError, urllib.error.URLError):
            return False

    def _end(self, *, kill: bool) -> None:
        if self._process is not None:
            self._process.kill() if kill else self._process.terminate()
            self._process.wait(cni.PATIENCE)
            self._process = None


def _encoded(text: str) -> str:
    return b64encode(text.encode()).decode()


def _decoded(text: str) -> str:
    return b64decode(text).decode()
