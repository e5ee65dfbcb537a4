"""The command line."""

import json
import subprocess
from pathlib import Path

from peers import Process
from trial import NotSupported, Trial
from world import PATH

from cases.registry import case

NETWORKS = 500


@case("cnm", ours_only=True)
def cnm_start(trial: Trial) -> None:
    """cnm --version: what each command waits for."""
    directory = trial.world.directory()
    for number in range(-1, trial.rounds):
        _run(trial, directory, ["--version"], "start" if number >= 0 else "")


@case("cnm", ours_only=True)
def cnm_create(trial: Trial) -> None:
    """cnm network create and rm, for the first network and where there are 500."""
    _require(trial, "network", "create")
    directories = {"": trial.world.directory(), f" among {NETWORKS}": trial.world.directory()}
    _write_networks(directories[f" among {NETWORKS}"])
    for number in range(-1, trial.rounds):
        for where, directory in directories.items():
            for verb in ("create", "rm"):
                op = f"{verb}{where}" if number >= 0 else ""
                _run(trial, directory, ["network", verb, "timed"], op)


@case("cnm", ours_only=True)
def cnm_ls(trial: Trial) -> None:
    """cnm network ls over 500 networks."""
    _require(trial, "network", "ls")
    directory = trial.world.directory()
    _write_networks(directory)
    for number in range(-1, trial.rounds):
        printed = _run(trial, directory, ["network", "ls"], "ls" if number >= 0 else "")
        listed = sum(name in printed for name in map(_network, range(NETWORKS)))
        if listed < NETWORKS:
            trial.results.fail(trial.case, f"ls shows {listed} networks of {NETWORKS}")


def _require(trial: Trial, *words: str) -> None:
    """Skip the case where the executable has no such command."""
    [ours] = trial.peers
    argv = [ours.executable("cnm"), *words, "--help"]
    if subprocess.run(argv, capture_output=True, check=False).returncode != 0:
        raise NotSupported(f"cnm has no `{' '.join(words)}`")


def _run(trial: Trial, directory: Path, words: list[str], op: str) -> str:
    """Run the command over a directory of networks; recorded where op names it; its output."""
    [ours] = trial.peers
    environment = {"PATH": PATH, "LC_ALL": "C.UTF-8", "CNI_CONF_DIR": str(directory)}
    with trial.host(ours):
        process = Process.start([ours.executable("cnm"), *words], environment, b"", trial.stderr)
    outcome = process.finish()
    if outcome.exit_code != 0:
        trial.results.fail(trial.case, f"{' '.join(words)}: exit code {outcome.exit_code}")
    elif op:
        trial.results.record(trial.case, op, ours.label, outcome.wall, outcome.cpu)
    return outcome.stdout.decode()


def _network(number: int) -> str:
    return f"network{number:03d}"


def _write_networks(directory: Path) -> None:
    """Write configurations as people write them by hand."""
    for number in range(NETWORKS):
        ipam = {"type": "host-local", "subnet": f"10.{number >> 8}.{number & 255}.0/24"}
        bridge = {"type": "bridge", "bridge": f"br{number}", "isGateway": True, "ipam": ipam}
        name = _network(number)
        content = {"cniVersion": "1.0.0", "name": name, "plugins": [bridge]}
        (directory / f"{name}.conflist").write_text(json.dumps(content))
