"""Network namespaces as the hosts of an overlay, on one underlay, with one etcd."""

import json
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import cni
from tests.commands import Cnm
from tests.etcd import Etcd
from tests.iproute import HOST, Netns

UNDERLAY, ETCD_ADDRESS = "under0", "10.99.0.254"


@dataclass
class Host:
    """One host: a namespace with an address on the underlay, and directories of its own."""

    number: int
    netns: Netns
    directory: Path
    bin: Path
    etcd: Etcd
    overrides: dict[str, Any] = field(default_factory=dict)
    _agent: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """The name of the node."""
        return f"host-{self.number}"

    @property
    def address(self) -> str:
        """Its address on the underlay: its VTEP."""
        return f"10.99.0.{self.number}"

    def network(self, name: str = "blue", **members: Any) -> cni.Config:
        """The configuration of an overlay network as this host has it."""
        return {
            "cniVersion": cni.NEWEST,
            "name": name,
            "type": "overlay",
            "store": {"endpoints": [self.etcd.url]},
            "node": self.name,
            "underlay": self.address,
            "subnets": [{"subnet": "10.7.0.0/24"}],
            "stateDir": str(self.directory / "run"),
            "dataDir": str(self.directory / "lib"),
            **self.overrides,
            **members,
        }

    def call(
        self,
        command: str,
        config: cni.Config,
        sandbox: Netns,
        ifname: str = "eth0",
        *,
        kill_after: float | None = None,
        **more: Any,
    ) -> cni.Outcome:
        """Run the plugin on this host for a container; killed after some seconds if need be."""
        variables = {"ifname": ifname, "path": str(self.bin), **more}
        if command not in ("GC", "STATUS"):
            variables |= {"container_id": f"id-{sandbox.name}", "netns": sandbox.path}
        with subprocess.Popen(
            ["ip", "netns", "exec", self.netns.name, self.bin / "overlay"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=cni.environment(command, **variables),
        ) as process:
            try:
                out, err = process.communicate(cni.encoded(config), kill_after or cni.PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                assert kill_after, f"{command} did not end: {out!r} {err!r}"
        return cni.Outcome(process.returncode, out, err)

    def add(self, sandbox: Netns, config: cni.Config | None = None, **more: Any) -> cni.Config:
        """ADD, which must succeed; its result."""
        return self.call("ADD", config or self.network(), sandbox, **more).result()

    def delete(self, sandbox: Netns, config: cni.Config | None = None, **more: Any) -> None:
        """DEL, which must succeed."""
        self.call("DEL", config or self.network(), sandbox, **more).silent()

    def check(self, sandbox: Netns, result: cni.Config, **members: Any) -> cni.Outcome:
        """CHECK with that result as prevResult."""
        return self.call("CHECK", self.network(prevResult=result, **members), sandbox)

    @property
    def networks(self) -> Path:
        """Its directory of networks."""
        return self.directory / "net.d"

    def write_config(self) -> Path:
        """Write the agent's configuration; where."""
        self.directory.mkdir(exist_ok=True)
        config = self.directory / "agent.json"
        fields = ("store", "node", "underlay", "stateDir", "dataDir")
        document = self.network()
        own = {key: document[key] for key in fields} | {"confDir": str(self.networks)}
        config.write_text(json.dumps(own))
        return config

    def cnm(self) -> Cnm:
        """The command line on this host, with a directory of networks of its own."""
        pools = self.directory / "pools.json"
        config = self.write_config()
        return Cnm(self.bin / "cnm", self.networks, str(self.bin), pools, config, self.netns)

    def start_agent(self, *prefix: str | Path, seconds: int = cni.PATIENCE) -> None:
        """Run `cnm agent` on this host, by a command if need be, until it has read the store and
        the other hosts count it alive.
        """
        config = self.write_config()
        with self.log.open("ab") as log:
            inside = ["ip", "netns", "exec", self.netns.name, *prefix]
            command = [*inside, self.bin / "cnm", "agent", "--config", config]
            self._agent = subprocess.Popen(command, stdout=log, stderr=log)
        for event in ("store-up", "lease-kept"):
            self.await_event(event, seconds)

    def stop_agent(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the agent by a signal; its exit code."""
        assert self._agent is not None
        self._agent.send_signal(number)
        code = self._agent.wait(cni.PATIENCE)
        self._agent = None
        return code

    def start_another_agent(self, port: int) -> "subprocess.Popen[bytes]":
        """Run a second agent, which waits for the first one; that one's process."""
        first, config = self._agent, self.write_config()
        assert first is not None
        config.write_text(json.dumps({**json.loads(config.read_text()), "listenPort": port}))
        with self.log.open("ab") as log:
            inside = ["ip", "netns", "exec", self.netns.name]
            command = [*inside, self.bin / "cnm", "agent", "--config", config]
            self._agent = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + cni.PATIENCE
        while '"waiting"' not in self.log.read_text().splitlines()[-1]:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return first

    def kill_agent(self) -> None:
        """SIGKILL for the agent, if one runs."""
        if self._agent is not None:
            self.stop_agent(signal.SIGKILL)

    def await_event(self, event: str, seconds: int = cni.PATIENCE) -> None:
        """Wait until this agent has said that something happened."""
        assert self._agent is not None
        deadline = time.monotonic() + seconds
        while event not in self.events():
            assert self._agent.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def events(self) -> list[str]:
        """What the agents of this host have said since the last start."""
        written, _, _ = self.log.read_text().rpartition("\n")  # it may be at the next line yet
        lines = written.splitlines()
        names = [json.loads(line)["event"] for line in lines if line.startswith("{")]
        starts = [at for at, name in enumerate(names) if name == "started"]
        return names[starts[-1] :] if starts else []

    def connected(self, *, up: bool) -> None:
        """Plug in, or pull, the host's cable to the underlay."""
        HOST.ip("link", "set", f"port{self.number}", "up" if up else "down")

    def last_said(self) -> float:
        """What the agent's clock showed, in seconds since 1970, when it last said something."""
        written, _, _ = self.log.read_text().rpartition("\n")
        time_of: float = json.loads(written.splitlines()[-1])["time"]
        return time_of

    @property
    def log(self) -> Path:
        """Where the agent's lines go."""
        return self.directory / "agent.log"

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of the agent's answer to an HTTP request."""
        with self.netns.entered():
            try:
                url = f"http://127.0.0.1:9475{path}"
                with urllib.request.urlopen(url, timeout=cni.PATIENCE) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()

    def entries(self, vni: int = 4097) -> set[tuple[str, ...]]:
        """Static entries: ("neighbour", IP, MAC), ("port", MAC) and ("vtep", MAC, VTEP)."""
        bridge, device = f"ov-{vni:06x}", f"vx-{vni:06x}"
        found: set[tuple[str, ...]] = set()
        for each in self.listed("ip", "-j", "neigh", "show", "dev", bridge, "nud", "permanent"):
            if not each["dst"].startswith("ff"):
                found.add(("neighbour", each["dst"], each["lladdr"]))
        for each in self.listed("bridge", "-j", "fdb", "show", "dev", device):
            if "dst" in each and each["mac"] != "00:00:00:00:00:00":
                found.add(("vtep", each["mac"], each["dst"]))
            elif each.get("state") == "static" and "master" in each:
                found.add(("port", each["mac"]))
        return found

    def listed(self, *command: str) -> list[dict[str, Any]]:
        """What iproute2 lists in JSON; nothing where the host has no such link, or not any more."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.netns.name, *command],
            capture_output=True,
            text=True,
            check=False,
        )
        absent = "Cannot find device" in done.stderr or "does not exist" in done.stderr
        assert done.returncode == 0 or absent, done
        return [each for each in json.loads(done.stdout or "[]") if each]


@contextmanager
def cluster(count: int, directory: Path, cni_bin: Path) -> Iterator[tuple[list[Host], Etcd]]:
    """Hosts on one underlay bridge in the caller's namespace, where etcd listens too."""
    HOST.ip("link", "add", UNDERLAY, "type", "bridge")
    HOST.ip("addr", "add", f"{ETCD_ADDRESS}/24", "dev", UNDERLAY)
    HOST.ip("link", "set", UNDERLAY, "up")
    etcd = Etcd(directory / "etcd", address=ETCD_ADDRESS)
    hosts: list[Host] = []
    try:
        etcd.start()
        for number in range(1, count + 1):
            hosts.append(_host(number, directory, cni_bin, etcd))
        yield hosts, etcd
    finally:
        for each in hosts:
            each.kill_agent()
        etcd.kill()
        for each in hosts:
            HOST.ip("netns", "delete", each.netns.name)
        HOST.ip("link", "delete", UNDERLAY)


def _host(number: int, directory: Path, cni_bin: Path, etcd: Etcd) -> Host:
    netns = Netns(f"node-{number}")
    HOST.ip("netns", "add", netns.name)
    host = Host(number, netns, directory / f"host-{number}", cni_bin, etcd)
    port = f"port{number}"
    HOST.ip("link", "add", port, "type", "veth", "peer", "name", "uplink", "netns", netns.name)
    HOST.ip("link", "set", port, "master", UNDERLAY, "up")
    netns.ip("addr", "add", f"{host.address}/24", "dev", "uplink")
    netns.ip("link", "set", "lo", "up")
    netns.ip("link", "set", "uplink", "up")
    return host


def remote_rows(endpoints: dict[str, tuple[Host, str]], host: Host) -> set[tuple[str, ...]]:
    """What a host's entries must be: address → (its host, its MAC) of every endpoint."""
    wanted: set[tuple[str, ...]] = set()
    for ip, (where, mac) in endpoints.items():
        if where.name != host.name:
            wanted |= {("neighbour", ip, mac), ("port", mac), ("vtep", mac, where.address)}
    return wanted


Sandboxes = Callable[[], Netns]
