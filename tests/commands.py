"""The built `cnm` command, and cnitool beside it, on one directory of networks."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import cni
from tests.iproute import HOST, Netns

FAILED, USAGE, NOT_FOUND, IN_THE_WAY, INVALID, INTERRUPTED = 1, 2, 3, 4, 5, 130


@dataclass(frozen=True)
class Done:
    """How a call of a command ended."""

    code: int
    out: str
    err: str

    def fails(self, code: int, *parts: str) -> None:
        """Assert that code, and one line on stderr that has all the parts."""
        assert (self.code, self.out) == (code, ""), self
        assert self.err.count("\n") == 1 and self.err.endswith("\n"), self
        for part in parts:
            assert part in self.err, self


@dataclass(frozen=True)
class Cnm:
    """The command line, with its directories of networks and of plugins."""

    binary: Path
    networks: Path
    plugins: str
    pools: Path
    agent: Path
    netns: Netns = HOST

    def call(self, *words: str, stdin: str = "", **variables: str) -> Done:
        """Run it to its end, with further variables in its environment."""
        done = subprocess.run(
            [*self._inside, self.binary, *words],
            env={**self._environment, **variables},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=cni.PATIENCE,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def kill(self, seconds: float, *words: str) -> None:
        """Start it, and kill it after that time unless it has ended."""
        command = [*self._inside, self.binary, *words]
        with subprocess.Popen(
            command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            try:
                process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.kill()

    def run(self, *words: str) -> str:
        """The output of a call that succeeds and says nothing else."""
        done = self.call(*words)
        assert (done.code, done.err) == (0, ""), done
        return done.out

    def lines(self, *words: str) -> list[dict[str, Any]]:
        """The JSON objects of a call with ``--format json``."""
        return [json.loads(line) for line in self.run(*words, "--format", "json").splitlines()]

    def inspect(self, name: str) -> dict[str, Any]:
        """What `network inspect` says of one network."""
        (found,) = json.loads(self.run("network", "inspect", name))
        return dict(found)

    def file(self, name: str) -> dict[str, Any]:
        """The content of a network's file."""
        return dict(json.loads((self.networks / f"90-{name}.conflist").read_text()))

    def plugin(self, name: str) -> dict[str, Any]:
        """The plugin object in a network's file."""
        (found,) = self.file(name)["plugins"]
        return dict(found)

    def put(self, file: str, content: dict[str, Any] | str) -> Path:
        """Write a file into the directory of networks."""
        self.networks.mkdir(exist_ok=True)
        path = self.networks / file
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def cnitool(self, command: str, name: str, netns: str, **variables: str) -> Done:
        """Run a command of cnitool on a network."""
        root = Path(__file__).parent.parent
        binary = shutil.which("cnitool", path=f"{root / '.tools/bin'}:{os.environ['PATH']}")
        if binary is None:
            pytest.fail("cnitool is missing: run make tools")
        done = subprocess.run(
            [*self._inside, binary, command, name, netns],
            env={**self._environment, "NETCONFPATH": str(self.networks), **variables},
            capture_output=True,
            text=True,
            timeout=cni.PATIENCE,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def add(self, name: str, netns: Netns, **variables: str) -> dict[str, Any]:
        """The result of ``cnitool add``, which must succeed."""
        done = self.cnitool("add", name, netns.path, **variables)
        assert done.code == 0, done
        return dict(json.loads(done.out))

    def delete(self, name: str, netns: Netns, **variables: str) -> None:
        """Run ``cnitool del``, which must succeed and say nothing."""
        assert self.cnitool("del", name, netns.path, **variables) == Done(0, "", "")

    @property
    def _environment(self) -> dict[str, str]:
        return {
            "PATH": cni.SEARCH_PATH,
            "LC_ALL": "C.UTF-8",
            "CNI_PATH": self.plugins,
            "CNI_CONF_DIR": str(self.networks),
            "CNM_POOLS": str(self.pools),
            "CNM_AGENT_CONFIG": str(self.agent),
        }

    @property
    def _inside(self) -> list[str]:
        """What runs a command on the host that this one is of."""
        return ["ip", "netns", "exec", self.netns.name] if self.netns.name else []
