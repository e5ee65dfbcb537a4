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
RESTING = 20
SLOWNESS = {10000: 2, 50000: 3}  # how many times fewer rounds there are


@case("host-local")
def hlscale(trial: Trial) -> None:
    """host-local with 0, 1000, 10000 and 50000 addresses in use: hlscale, hlrest, hlstatic.

    In hlrest released addresses rest, of which there are 20, and a hundred ranges are
    excluded. In hlstatic the container asks for its address besides.
    """
    directories = _directories(trial, ADDRESS_COUNTS)
    _time_used(trial, directories, "hlscale_{}")
    for peer in trial.peers:
        if peer.label == OURS:
            for count in ADDRESS_COUNTS:
                _let_rest(trial, peer, _resting(peer, directories[peer, count]))
    _time_used(trial, directories, "hlrest_{}", options=_resting)
    _time_used(trial, directories, "hlstatic_{}", options=_requesting)


@case("host-local")
def hlgap(trial: Trial) -> None:
    """host-local where the search begins before 1000 and 10000 used addresses."""
    _time_used(trial, _directories(trial, (1000, 10000)), "hlgap_{}", rewind=True)


def _resting(peer: Peer, data: Path) -> Config:
    """Keys that are ours alone: the Go plugin does not look at them."""
    config = networks.addresses(peer, data)
    [[pool]] = config["ipam"]["ranges"]
    excluded = [f"10.{100 + peer.index}.{250 + n // 20}.{n % 20 * 10}/31" for n in range(100)]
    pool = {**pool, "exclude": excluded}
    return {**config, "ipam": {**config["ipam"], "ranges": [[pool]], "quarantineSeconds": 3600}}


def _requesting(peer: Peer, data: Path) -> Config:
    return _resting(peer, data) | {"args": {"cni": {"ips": [f"10.{100 + peer.index}.249.7"]}}}


def _directories(trial: Trial, counts: tuple[int, ...]) -> dict[tuple[Peer, int], Path]:
    """Data directories by peer and number of used addresses."""
    directories = {}
    for peer in trial.peers:
        for count in counts:
            data = directories[peer, count] = trial.world.directory()
            use_addresses(peer, data / networks.addresses(peer, data)["name"], count)
    return directories


def _time_used(
    trial: Trial,
    directories: dict[tuple[Peer, int], Path],
    row: str,
    *,
    options: Callable[[Peer, Path], Config] = networks.addresses,
    rewind: bool = False,
) -> None:
    """Time host-local at each count of used addresses, the counts taking turns too."""
    for number, peer in trial.rotation():
        for (owner, count), data in directories.items():
            if owner != peer or number >= max(1, trial.rounds // SLOWNESS.get(count, 1)):
                continue
            config = options(peer, data)
            if rewind:
                (data / config["name"] / "last_reserved_ip.0").write_text(address(peer, 0))
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
