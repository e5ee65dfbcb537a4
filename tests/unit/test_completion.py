"""`cnm completion`, in a real bash on a terminal."""

import os
import pty
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

import cnm_core

ROOT = Path(cnm_core.__file__).parent.parent
CNM = "from cnm_core.cli.main import main; main()"
PATIENCE = 60  # seconds


class Terminal:
    """An interactive bash that knows the command line, and what it shows."""

    def __init__(self, directory: Path) -> None:
        wrapper = directory / "cnm"
        wrapper.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{CNM}' \"$@\"\n")
        wrapper.chmod(0o755)
        self._master, slave = pty.openpty()
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-i"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            cwd=directory,
            env={
                "PATH": f"{directory}:/usr/bin:/bin",
                "PYTHONPATH": str(ROOT),
                "TERM": "dumb",
                "PS1": "ready> ",
            },
        )
        os.close(slave)
        self.wait_for("ready> ")
        self.type("source <(cnm completion bash); echo loa''ded\n")
        self.wait_for("loaded")

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def wait_for(self, text: str) -> None:
        """Wait until the terminal shows a text that it did not show before."""
        shown, deadline = "", monotonic() + PATIENCE
        while text not in shown:
            ready, _, _ = select.select([self._master], [], [], max(0, deadline - monotonic()))
            assert ready, f"{text!r} did not come, but {shown!r}"
            shown += os.read(self._master, 4096).decode()

    def close(self) -> None:
        """End the shell."""
        self._bash.kill()
        self._bash.wait()
        os.close(self._master)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A terminal with a shell."""
    shell = Terminal(tmp_path)
    yield shell
    shell.close()


def test_bash(terminal: Terminal) -> None:
    """Tab completes groups, commands, options and values of arguments."""
    terminal.type("cnm netw\t")
    terminal.wait_for("cnm network ")
    terminal.type("vali\t")
    terminal.wait_for("validate ")
    terminal.type("--no-ex\t")
    terminal.wait_for("--no-executables ")
    terminal.type("\x15cnm schema port\t")
    terminal.wait_for("cnm schema portmap ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(shell: str) -> None:
    """Each shell gets a script of its own, which it finds well-formed where it is there."""
    done = subprocess.run(
        [sys.executable, "-c", CNM, "completion", shell], capture_output=True, check=True
    )
    assert f"_CNM_COMPLETE={shell}_complete".encode() in done.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, check=True)
