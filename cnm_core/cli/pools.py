"""Which subnets networks get: from default pools, beside all that is in use on this host."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from netaddr import IPNetwork, IPSet
from pydantic import ValidationError

from cnm_core.cli.conflists import Conflist
from cnm_core.cli.main import IN_THE_WAY, INVALID, Failure
from cnm_core.cli.subnets import is_any
from cnm_core.kernel import address, link, route
from cnm_core.kernel.netlink import Socket
from cnm_core.schema.base import explain
from cnm_core.schema.pools import PoolConfig, PoolsConfig

DEFAULT_FILE = "/etc/cnm/pools.json"
# Docker's, in its order (daemon/libnetwork/ipamutils).
_DEFAULT_IPV4 = (
    *(PoolConfig(base=f"172.{second}.0.0/16", size=16) for second in range(17, 32)),
    PoolConfig(base="192.168.0.0/16", size=20),
)


@dataclass(frozen=True)
class Use:
    """A network that is in use, and what for. `by_link` has the link that has it, if one does."""

    subnet: IPNetwork
    what: str
    by_link: str = ""
    is_route: bool = False


def load(path: Path) -> dict[int, list[PoolConfig]]:
    """The pools of each IP version. Raises Failure where the file makes no sense."""
    try:
        config = PoolsConfig.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        config = PoolsConfig()
    except ValidationError as error:
        problems = "; ".join(explain(error))
        raise Failure(f"{path}: {problems}", advice="mend the file", code=INVALID) from None
    except (ValueError, OSError) as error:
        raise Failure(f"cannot read {path}: {error}", advice="mend it", code=INVALID) from None
    return {4: config.ipv4 or list(_DEFAULT_IPV4), 6: config.ipv6 or [_own_ipv6()]}


def _own_ipv6() -> PoolConfig:
    """A /48 of unique local addresses that only this host has, the same each time."""
    try:
        identity = Path("/etc/machine-id").read_bytes().strip()
    except OSError:
        identity = b""
    digits = sha256(b"cnm default pool " + identity).hexdigest()
    return PoolConfig(base=f"fd{digits[:2]}:{digits[2:6]}:{digits[6:10]}::/48", size=64)


def in_use_by_networks(networks: Iterable[Conflist]) -> list[Use]:
    """The subnets of networks, whoever made them."""
    return [
        Use(IPNetwork(subnet), f'{subnet} of network "{network.name}" ({network.path})')
        for network in networks
        for subnet in network.subnets
    ]


def in_use_by_host() -> list[Use]:
    """The networks of this host's addresses, and where its routes lead; not the default ones."""
    host = Socket()
    names = {each.index: each.name for each in link.list_links(host)}
    found = []
    for each in address.list_of(host, 0):
        name = names.get(each.index, "a link")
        text = str(each.address)
        found.append(Use(IPNetwork(text).cidr, f"address {text} of {name}", by_link=name))
    connected = {each.subnet for each in found}
    for way in route.list_of(host, 0):
        subnet = IPNetwork(str(way.destination))
        if subnet.prefixlen and subnet not in connected:
            found.append(Use(subnet, f"the host's route to {subnet}", is_route=True))
    return found


def choose(pools: list[PoolConfig], used: Iterable[Use], size: int | None = None) -> str:
    """The first free subnet of the pools, of their size or of another. Raises Failure."""
    taken = IPSet(each.subnet for each in used)
    for pool in pools:
        length = pool.size if size is None else size
        free = IPSet([str(pool.base)]) - taken
        for block in free.iter_cidrs():
            if block.prefixlen <= length:
                return str(next(block.subnet(length)))
    of_size = "" if size is None else f" for a /{size}"
    raise Failure(
        f"all predefined address pools have been fully subnetted{of_size}",
        advice="give --subnet, remove what is unused (cnm network prune), "
        f"or say more pools in {DEFAULT_FILE}",
    )


def settle(
    texts: list[str], file: Path, used: list[Use], *, bridge: str = "", outside: bool = False
) -> list[str]:
    """The subnets that texts stand for: given ones, and free ones of the file's pools.

    With `outside` the host itself may be part of a given one; `bridge` may have one already.
    Raises Failure.
    """
    if not texts:
        return []
    host, used, found = in_use_by_host(), list(used), []
    for text in sorted(texts, key=is_any):  # what is given before what is chosen
        if is_any(text):
            size = int(text.partition("/")[2])
            pools = load(file)[6 if ":" in text else 4]
            found.append(choose(pools, used + host, size or None))
        else:
            refuse_overlap(text, used + ([] if outside else host), bridge=bridge)
            found.append(text)
        used.append(Use(IPNetwork(found[-1]), f"{found[-1]} of the same network"))
    return found


def refuse_overlap(subnet: str, used: Iterable[Use], *, bridge: str = "") -> None:
    """Raise Failure where a given subnet overlaps with what is in use, naming it.

    A route that leads to more than the subnet does not stand in its way: the subnet's own
    will be the longer match. Addresses of the bridge that is to have the subnet do not either.
    """
    wanted = IPNetwork(subnet)
    for each in used:
        if (bridge and each.by_link == bridge) or not _overlap(wanted, each.subnet):
            continue
        if each.is_route and each.subnet not in wanted:
            continue
        raise Failure(
            f"subnet {subnet} overlaps with {each.what}",
            advice="choose another subnet, or leave it out to get a free one",
            code=IN_THE_WAY,
        )


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and (one in other or other in one)
