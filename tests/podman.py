"""podman with a storage of its own and networks of ours."""

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import cgroups, cni, image


@dataclass(frozen=True)
class Podman:
    """The command line, with all of its state below one directory; networks are CNI's."""

    directory: Path
    plugins: Path

    @classmethod
    def set_up(cls, directory: Path, plugins: Path) -> "Podman":
        """Write its configuration, and load the image."""
        podman = cls(directory, plugins)
        podman.networks.mkdir(parents=True)
        (directory / "containers.conf").write_text(podman._configuration())
        (directory / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\n'
            f'graphroot = "{directory / "root"}"\nrunroot = "{directory / "run"}"\n'
        )
        (directory / "registries.conf").write_text("")
        podman.run("load", "--quiet", "--input", str(image.archive(directory / "image.tar")))
        return podman

    @property
    def networks(self) -> Path:
        """The directory of networks."""
        return self.directory / "net.d"

    def network(self, name: str, *plugins: cni.Config, version: str) -> None:
        """Write a network."""
        document = {"cniVersion": version, "name": name, "plugins": plugins}
        (self.networks / f"{name}.conflist").write_text(json.dumps(document))

    def call(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a command."""
        files = {
            f"CONTAINERS_{name}": str(self.directory / file)
            for name, file in (
                ("CONF", "containers.conf"),
                ("STORAGE_CONF", "storage.conf"),
                ("REGISTRIES_CONF", "registries.conf"),
            )
        }
        return subprocess.run(
            ["/usr/bin/podman", *words],
            capture_output=True,
            text=True,
            env={"PATH": cni.SEARCH_PATH, "HOME": str(self.directory), **files},
            timeout=cni.PATIENCE,
            check=False,
        )

    def run(self, *words: str) -> str:
        """The output of a command that succeeds."""
        done = self.call(*words)
        assert done.returncode == 0, done
        return done.stdout.strip()

    def serve(self, name: str, *options: str) -> None:
        """Start a container that tells its host name by HTTP, and wait until it does."""
        server = json.dumps(["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/etc"])
        options = (
            "--detach",
            f"--cgroup-parent={cgroups.PARENT}",
            "--name",
            name,
            "--hostname",
            name,
            "--entrypoint",
            server,
            *options,
        )
        self.run("run", "--pull=never", *options, image.NAME)
        deadline = time.monotonic() + cni.PATIENCE
        while self.call("exec", name, *image.fetching("127.0.0.1")).returncode:
            assert time.monotonic() < deadline, f"{name} does not serve"
            time.sleep(0.05)

    def fetch(self, container: str, address: str) -> str:
        """What a container gets from the server of another one."""
        return self.run("exec", container, *image.fetching(address))

    def addresses(self, container: str) -> dict[str, list[str]]:
        """A container's addresses on each of its networks."""
        (found,) = json.loads(self.run("inspect", container))
        networks: dict[str, dict[str, Any]] = found["NetworkSettings"]["Networks"]
        keys = ("IPAddress", "GlobalIPv6Address")
        return {name: [each[key] for key in keys if each[key]] for name, each in networks.items()}

    def remove(self, *containers: str) -> None:
        """Stop containers at once, and remove them."""
        self.run("rm", "--force", "--time=0", *containers)

    def clear(self) -> None:
        """Remove all containers, with what runtimes leave of them."""
        self.run("rm", "--force", "--time=0", "--all")
        cgroups.remove()

    def _configuration(self) -> str:
        return f"""
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
apparmor_profile = "unconfined"
cgroups = "no-conmon"
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "none"
tmp_dir = "{self.directory}/tmp"
static_dir = "{self.directory}/static"
volume_path = "{self.directory}/volumes"
[network]
network_backend = "cni"
cni_plugin_dirs = ["{self.plugins}"]
network_config_dir = "{self.networks}"
"""
