"""The cases: what is timed, one function each, in the order in which they run."""

import hashlib
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import networks
from networks import Config
from peers import OURS, Attachment, Peer, Process, container_id, environment
from trial import NotSupported, Trial
from world import PATH, find_tool, run

INTERPRETER = Path("/usr/bin/python3.11")
LAUNCHER_SOURCE = Path(__file__).with_name("launcher.c")
ADDRESS_COUNTS = (0, 1000, 10000, 50000)
SLOWNESS = {10000: 2, 50000: 3}  # how many times fewer rounds there are
CONTAINER_COUNTS = (0, 200, 1000)


@dataclass(frozen=True)
class Case:
    """A case, and the plugins that a peer needs for it."""

    name: str
    plugins: tuple[str, ...]
    run: Callable[[Trial], None]

    @property
    def summary(self) -> str:
        return (self.run.__doc__ or "").strip().splitlines()[0].rstrip(".")


CASES: dict[str, Case] = {}


def case(*plugins: str) -> Callable[[Callable[[Trial], None]], Callable[[Trial], None]]:
    """Enter a function into CASES under its own name."""

    def enter(function: Callable[[Trial], None]) -> Callable[[Trial], None]:
        CASES[function.__name__] = Case(function.__name__, plugins, function)
        return function

    return enter


# What a process costs


@case("bridge")
def version(trial: Trial) -> None:
    """VERSION: a plugin process that does next to nothing."""
    for number, peer in trial.rotation():
        trial.call(peer, "bridge", "VERSION", {"cniVersion": networks.VERSION}, timed=number >= 0)


@case("bridge")
def python(trial: Trial) -> None:
    """our VERSION beside the bare interpreter it is built from."""
    if not INTERPRETER.exists():
        raise NotSupported(f"{INTERPRETER} is missing")
    ours = next(peer for peer in trial.peers if peer.label == OURS)
    bare = Peer(len(trial.peers), INTERPRETER.name, INTERPRETER.parent, str(INTERPRETER))
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


# Single containers


@case("loopback")
def loopback(trial: Trial) -> None:
    """lo up and down again."""
    trial.attach("loopback", lambda peer, data: networks.network(peer, "loopback"))


@case("host-local")
def hostlocal(trial: Trial) -> None:
    """host-local by itself, as another plugin's delegate."""
    trial.attach("host-local", networks.addresses)


@case("bridge")
def bridge_l2(trial: Trial) -> None:
    """a bridge without addresses."""
    trial.attach("bridge", partial(networks.bridge, ipam={}))


@case("bridge", "host-local")
def bridge(trial: Trial) -> None:
    """a bridge with addresses that is no gateway."""
    trial.attach("bridge", networks.bridge, ("ADD", "CHECK", "DEL"))


@case("bridge", "host-local")
def bridge_gw(trial: Trial) -> None:
    """a bridge that is the containers' gateway."""
    trial.attach("bridge", networks.gateway, ("ADD", "CHECK", "DEL"))


@case("bridge", "host-local")
def bridge_warm(trial: Trial) -> None:
    """bridge_gw on a bridge that stays up: a node with other containers."""
    _keep_bridges_up(trial)
    trial.attach("bridge", networks.gateway)


@case("bridge", "host-local")
def dual(trial: Trial) -> None:
    """bridge_gw with IPv4 and IPv6."""
    trial.attach("bridge", partial(networks.gateway, dual=True))


@case("bridge", "host-local")
def dual_warm(trial: Trial) -> None:
    """dual on a bridge that stays up."""
    _keep_bridges_up(trial)
    trial.attach("bridge", partial(networks.gateway, dual=True))


@case("macvlan", "host-local")
def macvlan(trial: Trial) -> None:
    """a macvlan in bridge mode."""
    parent = networks.MACVLAN_PARENT
    run(["ip", "link", "add", parent, "up", "type", "veth", "peer", "name", "uplink0"])
    run(["ip", "link", "set", "uplink0", "up"])

    def config(peer: Peer, data: Path) -> Config:
        ipam = networks.host_local(peer, data)
        return networks.network(peer, "macvlan", master=parent, mode="bridge", ipam=ipam)

    trial.attach("macvlan", config)


@case("ptp", "host-local")
def ptp(trial: Trial) -> None:
    """a veth pair routed by the host."""

    def config(peer: Peer, data: Path) -> Config:
        return networks.network(peer, "ptp", ipam=networks.host_local(peer, data))

    trial.attach("ptp", config)


def _keep_bridges_up(trial: Trial) -> None:
    """Give each peer a bridge with a port whose carrier does not go."""
    for peer in trial.peers:
        name, port, other = networks.bridge_name(peer), f"keep{peer.index}", f"end{peer.index}"
        run(["ip", "link", "add", name, "up", "type", "bridge"])
        run(["ip", "link", "add", port, "up", "master", name, "type", "veth", "peer", other])
        run(["ip", "link", "set", other, "up"])


# Firewall


@case("bridge", "host-local")
def masq(trial: Trial) -> None:
    """bridge_gw with ipMasq, each peer with the backend it takes by itself."""
    config = partial(networks.gateway, ipMasq=True)
    trial.keep_supporting("bridge", config)
    trial.world.clear_host()
    trial.attach("bridge", config)


@case("bridge", "host-local")
def masq_nft(trial: Trial) -> None:
    """bridge_gw with ipMasq through nftables."""
    config = partial(networks.gateway, ipMasq=True, ipMasqBackend="nftables")
    trial.keep_supporting("bridge", config, _not_nftables)
    trial.world.clear_host()
    trial.attach("bridge", config)


@case("bridge", "host-local", "portmap")
def portmap(trial: Trial) -> None:
    """two published ports, each peer with the backend it takes by itself."""
    _publish(trial)


@case("bridge", "host-local", "portmap")
def portmap_nft(trial: Trial) -> None:
    """two published ports through nftables."""
    _publish(trial, backend="nftables")


@case("bridge", "host-local")
def masqscale(trial: Trial) -> None:
    """masq on a node where 0, 200 and 1000 containers are masqueraded already.

    Ours are attached with our own plugin, then their namespace goes away and what is left are
    rules, addresses and records. For the others the rules of the Go plugin are written as it
    writes them, because a thousand of its own calls take a minute; without a thousand
    addresses in use, which is in the others' favour.
    """
    config = partial(networks.gateway, ipMasq=True)
    trial.keep_supporting("bridge", config)
    for count in CONTAINER_COUNTS:
        trial.world.clear_host()
        data = {peer: trial.world.directory() for peer in trial.peers}
        _write_go_masquerade(count)
        for peer in trial.peers:
            if peer.label == OURS:
                _attach_and_abandon(trial, peer, config(peer, data[peer]), count)
        trial.attach(
            "bridge",
            lambda peer, _, data=data: config(peer, data[peer]),  # type: ignore[misc]
            rounds=max(1, trial.rounds // 2),
            case=f"masqscale_{count}",
        )


def _not_nftables() -> str:
    tables = run(["nft", "list", "tables"])
    if "table ip nat" in tables:
        return "uses iptables all the same"
    return "" if tables else "makes no nftables table"


def _publish(trial: Trial, **keys: Any) -> None:
    """Time portmap behind a container that its peer's bridge has attached."""
    configs: dict[Peer, Config] = {}
    for peer, netns in trial.namespace_of_each().items():
        attachment = Attachment(container_id(0), netns)
        network = networks.gateway(peer, trial.world.directory())
        result = trial.call(peer, "bridge", "ADD", network, attachment, timed=False)
        configs[peer] = networks.portmap(peer, prevResult=result, **keys)
    flaw = _not_nftables if keys.get("backend") == "nftables" else None
    trial.keep_supporting("portmap", lambda peer, _: configs[peer], flaw)
    run(["nft", "flush", "ruleset"])
    trial.attach("portmap", lambda peer, _: configs[peer])


def _attach_and_abandon(trial: Trial, peer: Peer, config: Config, count: int) -> None:
    """Attach count containers to a namespace that is removed afterwards."""
    if not count:
        return
    run(["ip", "netns", "add", "abandoned"])
    for number in range(count):
        attachment = Attachment(
            container_id(0xABAD0000 + number), "/run/netns/abandoned", f"eth{number}"
        )
        if trial.call(peer, "bridge", "ADD", config, attachment, timed=False) is None:
            break
    run(["ip", "netns", "del", "abandoned"])
    trial.world.wait_for_no_ports(networks.bridge_name(peer))


def _write_go_masquerade(count: int) -> None:
    """Load the iptables rules that the Go bridge plugin leaves for count containers."""
    if not count or find_tool("iptables-restore") is None:
        return
    chains, rules = [], []
    for number in range(count):
        chain = f"CNI-{hashlib.sha512(str(number).encode()).hexdigest()[:24]}"
        address = f"10.90.{number >> 8}.{number & 255}"
        comment = f'-m comment --comment "name: \\"net0\\" id: \\"{container_id(number)}\\""'
        chains.append(f":{chain} - [0:0]")
        rules += [
            f"-A POSTROUTING -s {address} {comment} -j {chain}",
            f"-A {chain} -d 10.90.0.0/16 {comment} -j ACCEPT",
            f"-A {chain} ! -d 224.0.0.0/4 {comment} -j MASQUERADE",
        ]
    lines = ["*nat", *chains, *rules, "COMMIT", ""]
    run(["iptables-restore"], stdin="\n".join(lines))


# Many at once


@case("bridge", "host-local")
def par20(trial: Trial) -> None:
    """bridge_gw for 20 containers at the same time."""
    trial.attach_at_once("bridge", networks.gateway, 20, max(1, trial.rounds // 3))


@case("bridge", "host-local")
def par50(trial: Trial) -> None:
    """bridge_gw for 50 containers at the same time."""
    trial.attach_at_once("bridge", networks.gateway, 50, max(1, trial.rounds // 3))


# Many addresses


@case("host-local")
def hlscale(trial: Trial) -> None:
    """host-local with 0, 1000, 10000 and 50000 addresses in use."""
    _time_used(trial, ADDRESS_COUNTS, "hlscale_{}")


@case("host-local")
def hlgap(trial: Trial) -> None:
    """host-local where the search begins before 1000 and 10000 used addresses."""
    _time_used(trial, (1000, 10000), "hlgap_{}", rewind=True)


def _time_used(trial: Trial, counts: tuple[int, ...], case: str, *, rewind: bool = False) -> None:
    """Time host-local at each count of used addresses, the counts taking turns too."""
    configs: dict[tuple[Peer, int], Config] = {}
    for peer in trial.peers:
        for count in counts:
            data = trial.world.directory()
            configs[peer, count] = networks.addresses(peer, data)
            _use_addresses(peer, data / configs[peer, count]["name"], count)
    for number, peer in trial.rotation():
        for count in counts:
            if number >= max(1, trial.rounds // SLOWNESS.get(count, 1)):
                continue
            config = configs[peer, count]
            if rewind:
                directory = Path(config["ipam"]["dataDir"], config["name"])
                (directory / "last_reserved_ip.0").write_text(_address(peer, 0))
            attachment = Attachment(container_id(0xADD00000 + number), "/run/netns/none")
            for verb in ("ADD", "DEL"):
                trial.call(
                    peer,
                    "host-local",
                    verb,
                    config,
                    attachment,
                    timed=number >= 0,
                    case=case.format(count),
                )


def _address(peer: Peer, number: int) -> str:
    return f"10.{100 + peer.index}.{(number + 2) >> 8}.{(number + 2) & 255}"


def _use_addresses(peer: Peer, directory: Path, count: int) -> None:
    """Write the files that host-local keeps for count containers."""
    directory.mkdir()
    for number in range(count):
        owner = f"{container_id(0xDEAD0000 + number)}\r\neth0"
        path = os.path.join(directory, _address(peer, number))
        with open(path, "w", newline="") as file:
            file.write(owner)
    if count:
        (directory / "lock").touch()
        (directory / "last_reserved_ip.0").write_text(_address(peer, count - 1))
