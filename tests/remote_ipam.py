"""An IPAM driver as somebody would write one for Docker: a process of its own, for the tests.

Pools and addresses are kept in memory. Every call is appended to a file, a line of JSON
each; another file tells which methods misbehave, and how (see `Server.misbehave`).
"""

import argparse
import ipaddress
import itertools
import json
import os
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

GATEWAY = "com.docker.network.gateway"
MAC = "com.docker.network.endpoint.macaddress"

Document = dict[str, Any]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


class Refusal(Exception):
    """What the driver says no to."""


@dataclass
class Pool:
    """A pool, the part of it that is given, and who has which address."""

    network: Network
    part: Network
    used: set[Ip] = field(default_factory=set)

    def take(self, wanted: str) -> Ip:
        """That address, or the lowest free one of the part."""
        if wanted:
            ip = ipaddress.ip_address(wanted)
            if ip not in self.network:
                raise Refusal("requested address is out of range")
            if ip in self.used:
                raise Refusal("Address already in use")
        else:
            free = (each for each in self.part.hosts() if each not in self.used)
            found = next(free, None)
            if found is None:
                raise Refusal("no available addresses on this pool")
            ip = found
        self.used.add(ip)
        return ip


class Ipam:
    """The driver's own half: what it gives and what it takes back."""

    def __init__(self, *, needs_mac: bool, replays: bool) -> None:
        self._capabilities = {"RequiresMACAddress": needs_mac, "RequiresRequestReplay": replays}
        self._pools: dict[str, Pool] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def answer(self, method: str, fields: Document) -> Document:
        """The answer to one call."""
        if method == "Plugin.Activate":
            return {"Implements": ["IpamDriver"]}
        if method == "IpamDriver.GetCapabilities":
            return self._capabilities
        if method == "IpamDriver.GetDefaultAddressSpaces":
            return {"LocalDefaultAddressSpace": "near", "GlobalDefaultAddressSpace": "far"}
        calls = {
            "IpamDriver.RequestPool": self._request_pool,
            "IpamDriver.ReleasePool": self._release_pool,
            "IpamDriver.RequestAddress": self._request_address,
            "IpamDriver.ReleaseAddress": self._release_address,
        }
        try:
            with self._lock:
                return calls[method](fields)
        except Refusal as refusal:
            return {"Error": str(refusal)}

    def _request_pool(self, fields: Document) -> Document:
        if fields["AddressSpace"] not in ("near", "far"):
            raise Refusal("invalid address space")
        if fields["Pool"]:
            network: Network = ipaddress.ip_network(fields["Pool"])
            if self._overlaps(network):
                raise Refusal("Pool overlaps with other one on this address space")
        else:
            network = next(each for each in _predefined(fields["V6"]) if not self._overlaps(each))
        part = ipaddress.ip_network(fields["SubPool"]) if fields["SubPool"] else network
        identifier = f"pool-{next(self._numbers)}"
        self._pools[identifier] = Pool(network, part)
        return {"PoolID": identifier, "Pool": str(network), "Data": {}}

    def _overlaps(self, network: Network) -> bool:
        present = (each.network for each in self._pools.values())
        return any(each.version == network.version and each.overlaps(network) for each in present)

    def _release_pool(self, fields: Document) -> Document:
        pool = self._pool(fields)
        if pool.used:
            raise Refusal(f"pool has {len(pool.used)} addresses in use")
        del self._pools[fields["PoolID"]]
        return {}

    def _request_address(self, fields: Document) -> Document:
        options = fields["Options"] or {}
        is_gateway = options.get("RequestAddressType") == GATEWAY
        if self._capabilities["RequiresMACAddress"] and not is_gateway and MAC not in options:
            raise Refusal("no MAC address")
        pool = self._pool(fields)
        return {"Address": f"{pool.take(fields['Address'])}/{pool.network.prefixlen}", "Data": {}}

    def _release_address(self, fields: Document) -> Document:
        pool, ip = self._pool(fields), ipaddress.ip_address(fields["Address"])
        if ip not in pool.used:
            raise Refusal(f"{ip} is not in use")
        pool.used.remove(ip)
        return {}

    def _pool(self, fields: Document) -> Pool:
        try:
            return self._pools[fields["PoolID"]]
        except KeyError:
            raise Refusal(f"unknown pool {fields['PoolID']}") from None


def _predefined(version_6: bool) -> Iterator[Network]:
    if version_6:
        return ipaddress.ip_network("fd00:90::/56").subnets(new_prefix=64)
    return ipaddress.ip_network("10.90.0.0/16").subnets(new_prefix=24)


class Server(BaseHTTPRequestHandler):
    """The protocol's half: HTTP/1.1, and whatever is told to go wrong."""

    protocol_version = "HTTP/1.1"
    ipam: Ipam
    log: Path
    faults: Path

    def do_POST(self) -> None:
        """One call."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        method = self.path.removeprefix("/")
        fields: Document = json.loads(body) if body else {}
        fault = self.fault_of(method)
        if "sleep" in fault:
            time.sleep(fault["sleep"])
        if fault.get("die") == "before":
            os._exit(1)
        answer = fault["answer"] if "answer" in fault else self.ipam.answer(method, fields)
        with self.log.open("a") as log:
            log.write(json.dumps({"method": method, "fields": fields, "answer": answer}) + "\n")
        self.misbehave(fault, json.dumps(answer).encode())

    def fault_of(self, method: str) -> Document:
        """What is wrong with a method: {} for nothing."""
        faults: Document = json.loads(self.faults.read_text()) if self.faults.exists() else {}
        found: Document = faults.get(method, {})
        return found

    def misbehave(self, fault: Document, body: bytes) -> None:
        """Send the answer, in the way that the fault tells.

        "raw": these characters and nothing of HTTP. "die": half the answer, and the process
        ends. "close": half the answer, and the connection ends. "chunked": in chunks of 3.
        "status": with that status. "body": that text.
        """
        if "raw" in fault:
            self.wfile.write(fault["raw"].encode())
            self.close_connection = True
            return
        body = fault["body"].encode() if "body" in fault else body
        self.send_response(fault.get("status", 200))
        if fault.get("chunked"):
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            pieces = [body[at : at + 3] for at in range(0, len(body), 3)]
            self.wfile.write(b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in pieces))
            self.wfile.write(b"0\r\n\r\n")
            return
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if "die" in fault or "close" in fault:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if "die" in fault:
                os._exit(1)
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the calls are in the file."""

    def address_string(self) -> str:
        """A unix socket's client has no address."""
        return "client"


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """On a unix socket."""

    daemon_threads = True
    request_queue_size = 128


class TcpServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """On a TCP port."""

    daemon_threads = True
    allow_reuse_address = True


class Tcp6Server(TcpServer):
    """On a TCP port of IPv6."""

    address_family = socket.AF_INET6


def serve(listen: str, handler: type[Server], tls: list[str] | None) -> None:
    """Serve a path, or HOST:PORT, and say so on stdout.

    `tls` are the files of certificate and key, and of the authority that clients need.
    """
    if listen.startswith("/"):
        Path(listen).unlink(missing_ok=True)
        server: socketserver.BaseServer = UnixServer(listen, handler)
    else:
        host, _, port = listen.rpartition(":")
        kind = Tcp6Server if ":" in host else TcpServer
        tcp = server = kind((host.strip("[]"), int(port)), handler)
        if tls is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*tls[:2])
            if len(tls) > 2:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(tls[2])
            tcp.socket = context.wrap_socket(tcp.socket, server_side=True)
    print("ready", flush=True)
    server.serve_forever()


@dataclass
class Driver:
    """The driver's process, as a test has it."""

    listen: str
    directory: Path
    options: tuple[str, ...] = ()
    process: "subprocess.Popen[str] | None" = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self.directory.mkdir(exist_ok=True)
        command = [sys.executable, __file__, self.listen, str(self.directory), *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def stop(self) -> None:
        """End it, as a kill does: it forgets everything."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def restart(self) -> None:
        """A new process at the same place."""
        self.stop()
        self.start()

    def break_(self, **faults: Document) -> None:
        """What goes wrong from now on, by the method's last word."""
        named = {f"IpamDriver.{method}": fault for method, fault in faults.items()}
        (self.directory / "faults").write_text(json.dumps(named))

    @property
    def calls(self) -> list[Document]:
        """Every call so far: method without its prefix, fields, answer."""
        log = self.directory / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [
            {**call, "method": call["method"].rpartition(".")[2]} for call in map(json.loads, lines)
        ]

    def methods(self) -> list[str]:
        """The methods that were called, in their order."""
        return [call["method"] for call in self.calls]

    def called(self, method: str) -> list[Document]:
        """The fields of each call of a method."""
        return [call["fields"] for call in self.calls if call["method"] == method]

    def forget(self) -> None:
        """Start a new list of calls."""
        (self.directory / "log").write_text("")

    def held(self) -> list[str]:
        """The addresses that are given and not taken back, by the list of calls."""
        held: list[str] = []
        for call in self.calls:
            if "Error" in call["answer"]:
                continue
            if call["method"] == "RequestAddress":
                held.append(call["answer"]["Address"].partition("/")[0])
            elif call["method"] == "ReleaseAddress":
                held.remove(call["fields"]["Address"])
        return sorted(held)

    def pools(self) -> list[str]:
        """The pools that are given and not taken back, by the list of calls."""
        pools: dict[str, str] = {}
        for call in self.calls:
            if "Error" in call["answer"]:
                continue
            if call["method"] == "RequestPool":
                pools[call["answer"]["PoolID"]] = call["answer"]["Pool"]
            elif call["method"] == "ReleasePool":
                del pools[call["fields"]["PoolID"]]
        return sorted(pools.values())


def main() -> None:
    """The process: where to listen, a directory for the list of calls, and capabilities."""
    parser = argparse.ArgumentParser()
    parser.add_argument("listen")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--tls", nargs="+")
    parser.add_argument("--needs-mac", action="store_true")
    parser.add_argument("--replays", action="store_true")
    chosen = parser.parse_args()
    Server.ipam = Ipam(needs_mac=chosen.needs_mac, replays=chosen.replays)
    Server.log, Server.faults = chosen.directory / "log", chosen.directory / "faults"
    serve(chosen.listen, Server, chosen.tls)


if __name__ == "__main__":
    main()
