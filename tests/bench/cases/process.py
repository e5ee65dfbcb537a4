"""What a process costs."""

import subprocess
from pathlib import Path

import networks
from peers import Attachment, Peer, Process, container_id, environment
from trial import NotSupported, Trial
from world import PATH, find_tool

from cases.registry import case

INTERPRETER = Path("/usr/bin/python3.11")
LAUNCHER_SOURCE = Path(__file__).parents[1] / "launcher.c"


@case("bridge")
def version(trial: Trial) -> None:
    """VERSION: a plugin process that does next to nothing."""
    for number, peer in trial.rotation():
        trial.call(peer, "bridge", "VERSION", {"cniVersion": networks.VERSION}, timed=number >= 0)


@case("bridge", ours_only=True)
def python(trial: Trial) -> None:
    """our VERSION beside the bare interpreter it is built from."""
    if not INTERPRETER.exists():
        raise NotSupported(f"{INTERPRETER} is missing")
    [ours] = trial.peers
    bare = Peer(1, INTERPRETER.name, INTERPRETER.parent, str(INTERPRETER))
    trial.peers = [ours, bare]
    for number, peer in trial.rotation():
        if peer is ours:
            config = {"cniVersion": networks.VERSION}
            trial.call(peer, "bridge", "VERSION", config, timed=number >= 0)
            continue
        argv = [str(INTERPRETER), "-I", "-S", "-c", "pass"]
        outcome = Process.start(argv, {"PATH": PATH}, b"", trial.stderr).finish()
        if outcome.exit_code != 0:
            trial.results.fail("python", f"{' '.join(argv)}: exit code {outcome.exit_code}")
        elif number >= 0:
            trial.results.record("python", "VERSION", bare.label, outcome.wall, outcome.cpu)


@case("bridge", "host-local")
def memory(trial: Trial) -> None:
    """peak resident memory of a bridge ADD's largest process, started by a tiny one."""
    launcher = _compile_launcher(trial.world.directory())
    peak = trial.world.directory() / "peak"
    netns = trial.world.namespaces(1)[0]
    data = {peer: trial.world.directory() for peer in trial.peers}
    for number, peer in trial.rotation(warm_up=1):
        attachment = Attachment(container_id(number + 1), netns)
        config = networks.gateway(peer, data[peer])
        with trial.host(peer):
            add = Process.start(
                [str(launcher), str(peak), peer.executable("bridge")],
                environment(peer, "ADD", attachment),
                networks.encode(config),
                trial.stderr,
            )
        answer = trial.checked(peer, "ADD", add.finish())
        if answer is not None and number >= 0:
            mebibytes = int(peak.read_text()) / 1024
            trial.results.record("memory", "ADD", peer.label, mebibytes, unit="MiB")
        trial.call(peer, "bridge", "DEL", config, attachment, timed=False)


def _compile_launcher(directory: Path) -> Path:
    compiler = find_tool("gcc")
    if compiler is None:
        raise NotSupported("gcc is missing")
    launcher = directory / "launcher"
    subprocess.run(
        [compiler, "-O2", "-static", "-o", str(launcher), str(LAUNCHER_SOURCE)], check=True
    )
    return launcher
