"""How much of host-local's pools is in use, and by whom."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cnm_core.cli.conflists import Conflist
from cnm_core.cni.pools import HOST_LOCAL, directory_or
from cnm_core.config.host_local import HostLocalConfig, host_local_config
from cnm_core.errors import Error
from cnm_core.inet import format_ip, parse_ip, to_int
from cnm_core.ipam.host_local import Range, range_sets
from cnm_core.model import EndpointKey
from cnm_core.store.allocations import Allocations

DEFAULT_DATA = HostLocalConfig().data_dir


@dataclass(frozen=True)
class PoolUse:
    """A subnet: how many addresses are in use, and how many more could be given."""

    subnet: str
    in_use: int
    available: int


@dataclass(frozen=True)
class Allocated:
    """An address and who has it; an owner without a container ID where its file names nobody."""

    address: str
    owner: EndpointKey


def data_dir(network: Conflist) -> str:
    """Where the addresses of a network are files; of an overlay those of this host."""
    config = network.driver_config if network.is_overlay else network.ipam
    return directory_or(config.get("dataDir"), DEFAULT_DATA)


def is_host_local(network: Conflist) -> bool:
    """Whether its addresses are host-local's, by us or by the Go plugin."""
    return network.ipam.get("type") in HOST_LOCAL


def pools_of(network: Conflist) -> list[PoolUse]:
    """The use of each subnet; none where the addresses are not host-local's."""
    if not is_host_local(network):
        return []
    try:
        sets = range_sets(host_local_config(network.ipam, "ipam"))
    except Error:
        return []  # ADD says what is wrong with it
    taken = [parse_ip(each.address) for each in allocated(data_dir(network), network.name)]
    return [_use_of(each, taken) for ranges in sets for each in ranges]


def allocated(directory: str, network: str) -> list[Allocated]:
    """The addresses of a network that are in use, in their order."""
    try:
        names = [path.name for path in Path(directory, network).iterdir()]
    except OSError:
        return []
    allocations = Allocations(directory, network)
    found = []
    for ip in sorted(_addresses(names), key=lambda each: (len(each), each)):
        owner = allocations.owner_of(ip)
        if owner is not None:
            found.append(Allocated(format_ip(ip), owner))
    return found


def _use_of(of: Range, taken: list[bytes]) -> PoolUse:
    used = {to_int(ip) for ip in taken if len(ip) == len(of.subnet.ip) and ip in of.subnet}
    given = sum(last - first + 1 for first, last in of.spans(of.first, of.last))
    inside = sum(1 for ip in used if _is_given(of, ip))
    return PoolUse(str(of.subnet), len(used), given - inside)


def _is_given(of: Range, ip: int) -> bool:
    return any(first <= ip <= last for first, last in of.spans(of.first, of.last))


def _addresses(names: list[str]) -> Iterator[bytes]:
    for name in names:
        try:
            yield parse_ip(name)
        except ValueError:
            continue  # locks, and where the next search begins
