"""Many addresses."""

import os
from collections.abc import Callable
from pathlib import Path

import networks
from networks import Config
from peers import OURS, Attachment, Peer, container_id
from trial import Trial

from cases.registry import case

ADDRESS_COUNTS = (0, 1000, 10000, 50000)
SOME_COUNTS = (0, 10000, 50000)
RESTING = 20
SLOWNESS = {10000: 2, 50000: 3}  # how many times fewer rounds there are


@case("host-local")
def hlscale(trial: Trial) -> None:
    """host-local with 0, 1000, 10000 and 50000 addresses in use."""
    _time_used(trial, ADDRESS_COUNTS, "hlscale_{}")


@case("host-local")
def hlgap(trial: Trial) -> None:
    """host-local where the search begins before 1000 and 10000 used addresses."""
    _time_used(trial, (1000, 10000), "hlgap_{}", rewind=True)


@case("host-local")
def hlrest(trial: Trial) -> None:
    """hlscale where released addresses rest, a hundred ranges are excluded, and 20 rest."""
    _time_used(trial, SOME_COUNTS, "hlrest_{}", options=_resting)


@case("host-local")
def hlstatic(trial: Trial) -> None:
    """hlrest where the container asks for its address."""
    _time_used(trial, SOME_COUNTS, "hlstatic_{}", options=_requesting)


def _resting(peer: Peer, data: Path) -> Config:
    """Keys that are ours alone: the Go plugin does not look at them."""
    config = networks.addresses(peer, data)
    [[pool]] = config["ipam"]["ranges"]
    excluded = [f"10.{100 + peer.index}.{250 + n // 20}.{n % 20 * 10}/31" for n in range(100)]
    pool = {**pool, "exclude": excluded}
    return {**config, "ipam": {**config["ipam"], "ranges": [[pool]], "quarantineSeconds": 3600}}


def _requesting(peer: Peer, data: Path) -> Config:
    return _resting(peer, data) | {"args": {"cni": {"ips": [f"10.{100 + peer.index}.249.7"]}}}


def _time_used(
    trial: Trial,
    counts: tuple[int, ...],
    row: str,
    *,
    options: Callable[[Peer, Path], Config] = networks.addresses,
    rewind: bool = False,
) -> None:
    """Time host-local at each count of used addresses, the counts taking turns too."""
    configs: dict[tuple[Peer, int], Config] = {}
    for peer in trial.peers:
        for count in counts:
            data = trial.world.directory()
            configs[peer, count] = options(peer, data)
            use_addresses(peer, data / configs[peer, count]["name"], count)
            if peer.label == OURS and "quarantineSeconds" in configs[peer, count]["ipam"]:
                _let_rest(trial, peer, configs[peer, count])
    for number, peer in trial.rotation():
        for count in counts:
            if number >= max(1, trial.rounds // SLOWNESS.get(count, 1)):
                continue
            config = configs[peer, count]
            if rewind:
                directory = Path(config["ipam"]["dataDir"], config["name"])
                (directory / "last_reserved_ip.0").write_text(address(peer, 0))
            attachment = Attachment(container_id(0xADD00000 + number), "/run/netns/none")
            for verb in ("ADD", "DEL"):
                trial.call(
                    peer,
                    "host-local",
                    verb,
                    config,
                    attachment,
                    timed=number >= 0,
                    row=row.format(count),
                )


def address(peer: Peer, number: int) -> str:
    """The address of a peer's container, in the order in which host-local gives them."""
    return f"10.{100 + peer.index}.{(number + 2) >> 8}.{(number + 2) & 255}"


def use_addresses(peer: Peer, directory: Path, count: int) -> None:
    """Write the files that host-local keeps for count containers."""
    directory.mkdir(exist_ok=True)
    for number in range(count):
        owner = f"{container_id(0xDEAD0000 + number)}\r\neth0"
        path = os.path.join(directory, address(peer, number))
        with open(path, "w", newline="") as file:
            file.write(owner)
    if count:
        (directory / "lock").touch()
        (directory / "last_reserved_ip.0").write_text(address(peer, count - 1))


def _let_rest(trial: Trial, peer: Peer, config: Config) -> None:
    """Have our plugin give and take back addresses, which rest from then on."""
    for number in range(RESTING):
        attachment = Attachment(container_id(0xBED00000 + number), "/run/netns/none")
        for verb in ("ADD", "DEL"):
            trial.call(peer, "host-local", verb, config, attachment, timed=False)
