"""A containerd of one's own, asked through CRI by crictl as the kubelet would ask it."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import cgroups, cni, image
from tests.iproute import run

_ROOT = Path(__file__).parent.parent


def tool(name: str) -> str | None:
    """The path of a program of the repository's own tools, or of PATH."""
    return shutil.which(name, path=f"{_ROOT / '.tools/bin'}:{os.environ['PATH']}")


@dataclass(frozen=True)
class Pod:
    """A pod sandbox: its ID and what its creation was asked with."""

    id: str
    config: Path

    @property
    def name(self) -> str:
        """Its host name."""
        return self.config.stem


@dataclass
class Containerd:
    """A daemon below one directory, in the namespaces of whoever starts it.

    `programs` has containerd and the shim of its release; `plugins` is the directory of CNI
    plugins.
    """

    directory: Path
    programs: Path
    plugins: Path
    _process: subprocess.Popen[bytes] | None = None
    _pods: int = 0

    def configure(self, *plugins: cni.Config, version: str, name: str = "blue") -> None:
        """Write the one network that pods are on."""
        networks = self.directory / "net.d"
        networks.mkdir(parents=True, exist_ok=True)
        document = {"cniVersion": version, "name": name, "plugins": plugins}
        (networks / "10-blue.conflist").write_text(json.dumps(document))

    def start(self) -> None:
        """Start it, and wait until it says that it and its network are ready."""
        config = self.directory / "config.toml"
        config.write_text(self._configuration())
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.programs / "containerd", "--config", config],
                stdout=log,
                stderr=log,
                env={"PATH": f"{self.programs}:{cni.SEARCH_PATH}", "TMPDIR": str(self.directory)},
            )
        deadline = time.monotonic() + cni.PATIENCE
        while not self._ready():
            assert self._process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def load(self, name: str = image.NAME, entrypoint: Sequence[str] = image.SLEEP) -> None:
        """Import an image of busybox; the one that pods are made with unless told else."""
        archive = image.archive(self.directory / "image.tar", name, entrypoint)
        command = ("ctr", "--address", str(self.socket), "--namespace", "k8s.io", "images")
        run(*command, "import", str(archive))

    def kill(self) -> None:
        """End it as a crash would; pods stay."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Remove all pods, and end it."""
        if pods := self.crictl("pods", "--quiet").split():
            self.crictl("rmp", "--force", *pods)
        self._end(signal.SIGTERM)
        self._end_shims()
        cgroups.remove()

    def _end_shims(self) -> None:
        """End the shims that a killed containerd started and its successor does not know."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):  # it has ended
                continue
            if command[0].endswith(b"/containerd-shim-runc-v2") and bytes(self.socket) in command:
                os.kill(int(process.name), signal.SIGKILL)

    def _end(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(cni.PATIENCE)

    def log(self) -> str:
        """The end of what it said."""
        return (self.directory / "log").read_text()[-4000:]

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.directory / "socket"

    # --- CRI

    def call(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of crictl."""
        binary = tool("crictl")
        assert binary is not None, "crictl is missing: run make tools"
        endpoints = [f"--{kind}-endpoint=unix://{self.socket}" for kind in ("runtime", "image")]
        return subprocess.run(
            [binary, "--config=/dev/null", f"--timeout={cni.PATIENCE}s", *endpoints, *words],
            capture_output=True,
            text=True,
            env={"PATH": cni.SEARCH_PATH, "HOME": str(self.directory)},
            timeout=2 * cni.PATIENCE,
            check=False,
        )

    def crictl(self, *words: str) -> str:
        """The output of a command that succeeds."""
        done = self.call(*words)
        assert done.returncode == 0, f"{done}\n{self.log()}"
        return done.stdout.strip()

    def pod(self, *ports: tuple[int, int]) -> Path:
        """The configuration of another pod, with pairs of a port of the host's and its own."""
        self._pods += 1
        name = f"pod-{self._pods}"
        mappings = [{"host_port": host, "container_port": own} for host, own in ports]
        return self._file(
            name,
            {
                "metadata": {"name": name, "namespace": "test", "uid": name, "attempt": 0},
                "hostname": name,
                "port_mappings": mappings,
                "linux": {"cgroup_parent": cgroups.PARENT},
            },
        )

    def run_pod(self, config: Path) -> Pod:
        """RunPodSandbox."""
        return Pod(self.crictl("runp", str(config)), config)

    def serve(self, pod: Pod) -> str:
        """Start a container in a pod that tells its host name by HTTP; the container's ID."""
        container = self.run_container(pod, "httpd", "-f", "-p", "80", "-h", "/etc")
        deadline = time.monotonic() + cni.PATIENCE
        while self.call("exec", container, *image.fetching("127.0.0.1")).returncode:
            assert time.monotonic() < deadline, f"{container} does not serve"
            time.sleep(0.05)
        return container

    def fetch(self, container: str, address: str) -> str:
        """What another pod's server answers to a container."""
        return self.crictl("exec", container, *image.fetching(address))

    def run_container(self, pod: Pod, *command: str) -> str:
        """CreateContainer and StartContainer; the container's ID."""
        config = {
            "metadata": {"name": "main", "attempt": 0},
            "image": {"image": image.NAME},
            "command": ["/bin/busybox", *command],
            "linux": {},
        }
        file = self._file(f"container-{pod.id}", config)
        container = self.crictl("create", "--no-pull", pod.id, str(file), str(pod.config))
        self.crictl("start", container)
        return container

    def addresses(self, pod: Pod) -> list[str]:
        """The pod's addresses, as its status has them."""
        network = self.status(pod)["status"]["network"]
        return [network["ip"], *(each["ip"] for each in network["additionalIps"])]

    def status(self, pod: Pod) -> dict[str, Any]:
        """PodSandboxStatus, verbose."""
        return dict(json.loads(self.crictl("inspectp", "--output", "json", pod.id)))

    def remove(self, pod: Pod) -> None:
        """StopPodSandbox and RemovePodSandbox, with whatever containers it has."""
        self.crictl("stopp", pod.id)
        self.crictl("rmp", pod.id)

    def _file(self, name: str, document: dict[str, Any]) -> Path:
        file = self.directory / f"{name}.json"
        file.write_text(json.dumps(document))
        return file

    def _ready(self) -> bool:
        done = self.call("info")
        if done.returncode:
            return False
        conditions = json.loads(done.stdout)["status"]["conditions"]
        wanted = ("RuntimeReady", "NetworkReady")
        return all(each["status"] for each in conditions if each["type"] in wanted)

    def _configuration(self) -> str:
        return f"""
version = 2
root = "{self.directory}/root"
state = "{self.directory}/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
address = "{self.socket}"
[ttrpc]
address = "{self.socket}.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image.NAME}"
netns_mounts_under_state_dir = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{self.plugins}"
conf_dir = "{self.directory}/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""
