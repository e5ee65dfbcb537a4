"""What the hosts of an overlay have written down together, and how it may change.

Keys, all below ``cnm/v1/<cluster>/`` in a store of many clusters:

| key | value |
|---|---|
| ``members/<node>`` | a host: its VTEP, and the MTU that its underlay leaves |
| ``alive/<node>`` | there while the host's agent keeps its lease |
| ``networks/<network>`` | VNI, port, MTU and subnets |
| ``vnis/<VNI>`` | the network that has the VNI |
| ``subnets`` | the network that was made last: of two at once one looks at the other's subnets |
| ``blocks/<network>/<address>_<length>`` | the host that gives these addresses |
| ``ips/<network>/<address>`` | the endpoint that has the address, as ``<node>/<key>`` |
| ``endpoints/<network>/<node>/<key>`` | addresses, MAC address and VTEP of an endpoint |

What is claimed is claimed by a transaction on the absence of its key, and on the host's
own membership as it was when it joined: a host that has been fenced can claim nothing.
"""

from cnm_core import json
from cnm_core.errors import (
    InvalidNetworkConfig,
    NotAvailable,
    StateFailure,
    TryAgainLater,
)
from cnm_core.inet import (
    Address,
    format_ip,
    format_mac,
    parse_address,
    parse_ip,
    parse_mac,
)
from cnm_core.model import EndpointKey
from cnm_core.record import Record
from cnm_core.store.shared import Delete, Entry, Put, Unchanged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from cnm_core.store.shared import SharedStore

    T = TypeVar("T")

# VNIs that are given out; below them those that other systems use by default.
_FIRST_VNI, _LAST_VNI = 4097, (1 << 24) - 1
_LAST_MADE = "subnets"
# A subnet is given out in blocks of these prefix lengths, for each host one and more as needed.
_BLOCK_LENGTHS = {32: 27, 128: 120}
_ATTEMPTS = 100
# etcd's own limit of operations in one transaction (--max-txn-ops).
_TXN_OPS = 120


class Member(Record):
    """A host. `mtu` is what its underlay leaves to containers; `revision` that of its joining,
    0 before.
    """

    node: str
    vtep: bytes
    mtu: int
    revision: int = 0


class Subnet(Record):
    """A subnet of a network, with the address that every host's bridge has in it."""

    address: Address
    gateway: bytes

    def __str__(self) -> str:
        return f"{self.address} with gateway {format_ip(self.gateway)}"


class SharedNetwork(Record):
    """A network as all hosts have it. `vni` 0 asks for one that is free.

    `mtu` is that of bridges and containers; `revision` that of its making, 0 before.
    """

    name: str
    vni: int
    port: int
    mtu: int
    internal: bool
    subnets: tuple[Subnet, ...]
    revision: int = 0


class Block(Record):
    """Addresses that one host gives, since a revision."""

    address: Address
    revision: int


class Published(Record):
    """An endpoint as the other hosts know it."""

    network: str
    node: str
    key: EndpointKey
    ips: tuple[bytes, ...]
    mac: bytes
    vtep: bytes

    @property
    def owner(self) -> str:
        """What the keys of its addresses hold."""
        return f"{self.node}/{self.key}"


class Outdated(Exception):
    """What a host knew of a network does not hold any more: look again."""


class Cluster:
    """The shared state of one cluster, over its store."""

    def __init__(self, store: "SharedStore") -> None:
        self.store = store

    def member(self, node: str) -> Member | None:
        """A host of that name, None where there is none."""
        entry = self.store.get(f"members/{node}")
        return _member_of(entry) if entry else None

    def members(self) -> list[Member]:
        """All hosts."""
        return list(map(_member_of, self.store.range("members/").entries))

    def join(self, wanted: Member) -> Member:
        """Make a host a member, or change its VTEP or MTU. Raises InvalidNetworkConfig.

        Two hosts with one VTEP would take each other's traffic.
        """
        key = f"members/{wanted.node}"
        value = json.dumps({"vtep": format_ip(wanted.vtep), "mtu": wanted.mtu})
        for _ in range(_ATTEMPTS):
            members = {each.node: each for each in self.members()}
            present = members.pop(wanted.node, wanted.replace(revision=0))
            if present.revision and present == wanted.replace(revision=present.revision):
                return present
            for each in members.values():
                if each.vtep == wanted.vtep:
                    raise _vtep_in_use(wanted, each)
            revision = self.store.commit((Unchanged(key, present.revision),), (Put(key, value),))
            if revision is not None:
                return wanted.replace(revision=revision)
        raise TryAgainLater(f'member "{wanted.node}" is being changed by too many at once')

    def announce(self, node: str, lease: int) -> None:
        """Have a host count as alive while its lease is."""
        self.store.commit((), (Put(f"alive/{node}", "", lease),))

    def alive(self) -> set[str]:
        """The hosts whose agents are there."""
        return {each.key.rpartition("/")[2] for each in self.store.range("alive/").entries}

    def network(self, name: str) -> SharedNetwork | None:
        """A network of that name, None where there is none."""
        entry = self.store.get(f"networks/{name}")
        return _network_of(entry) if entry else None

    def networks(self) -> list[SharedNetwork]:
        """All networks."""
        return list(map(_network_of, self.store.range("networks/").entries))

    def create_network(self, wanted: SharedNetwork, mtu: int) -> SharedNetwork:
        """Make a network known, with a VNI of its own; the one of that name if it is the same.

        `mtu` is that of a network that wants none of its own. Raises InvalidNetworkConfig
        where name, VNI or a subnet is another network's.
        """
        for _ in range(_ATTEMPTS):
            last = self.store.get(_LAST_MADE)
            present = self.network(wanted.name)
            if present is not None:
                _refuse_difference(wanted, present)
                return present
            made = wanted.replace(vni=wanted.vni or self._free_vni(), mtu=wanted.mtu or mtu)
            holder = self.store.get(f"vnis/{made.vni}")
            if holder is not None and wanted.vni:
                raise InvalidNetworkConfig(
                    f'vni: {made.vni} is that of network "{holder.value}"',
                    details="leave vni out to be given a free one",
                )
            _refuse_overlap(made, self.networks())
            changes = (
                Put(f"networks/{made.name}", encode_network(made)),
                Put(f"vnis/{made.vni}", made.name),
            )
            unchanged = Unchanged(_LAST_MADE, last.revision if last else 0)
            conditions = (unchanged, *(Unchanged(each.key) for each in changes))
            revision = self.store.commit(conditions, (*changes, Put(_LAST_MADE, made.name)))
            if revision is not None:
                return made.replace(revision=revision)
        raise TryAgainLater(f'network "{wanted.name}" is being made by too many at once')

    def delete_network(self, network: SharedNetwork) -> None:
        """Forget a network. Raises NotAvailable while a host has endpoints on it."""
        endpoints = self.endpoints(network.name)
        if endpoints:
            raise NotAvailable(
                f'network "{network.name}" has {len(endpoints)} endpoints, '
                f"{endpoints[0].owner} among them"
            )
        keys = [each.key for each in self.store.range(f"blocks/{network.name}/").entries]
        # The network last: until then it can be deleted again.
        self._delete_all([*keys, f"vnis/{network.vni}", f"networks/{network.name}"])

    def blocks(self, network: str, node: str) -> tuple[Block, ...]:
        """The blocks of a network that a host has."""
        entries = self.store.range(f"blocks/{network}/").entries
        return tuple(_block_of(each) for each in entries if each.value == node)

    def block_holders(self, network: str) -> list[str]:
        """The host that has it, for each block of a network that some host has."""
        return [each.value for each in self.store.range(f"blocks/{network}/").entries]

    def claim_block(self, network: str, subnet: Address, member: Member) -> Block:
        """A block of a subnet that no host has. Raises TryAgainLater where all are taken."""
        for _ in range(_ATTEMPTS):
            taken = {each.key for each in self.store.range(f"blocks/{network}/").entries}
            block = _free_block(network, subnet, taken)
            if block is None:
                raise TryAgainLater(
                    f'every block of {subnet} of network "{network}" is some host\'s',
                    details='"cnm node fence" frees those of a host that is gone for good',
                )
            key = _block_key(network, block)
            revision = self._claim(member, (Unchanged(key),), (Put(key, member.node),))
            if revision is not None:
                return Block(block, revision)
        raise TryAgainLater(f'blocks of network "{network}" are taken by too many at once')

    def release_block(self, network: str, block: Block) -> None:
        """Give a block back, if the host still has it as it claimed it."""
        key = _block_key(network, block.address)
        self.store.commit((Unchanged(key, block.revision),), (Delete(key),))

    def publish(
        self,
        endpoint: Published,
        member: Member,
        network: SharedNetwork,
        blocks: "tuple[Block, ...]",
    ) -> bytes | None:
        """Claim an endpoint's addresses and make it known, in one transaction.

        An address that somebody has is the answer; None means that it is done. Raises
        NotAvailable where the host was fenced, Outdated where the network was removed or
        one of the blocks that the addresses are out of is not the host's any more.
        """
        claims = tuple(_ip_key(endpoint.network, ip) for ip in endpoint.ips)
        known = [Unchanged(f"networks/{network.name}", network.revision)]
        for block in blocks:
            if any(ip in block.address for ip in endpoint.ips):
                known.append(Unchanged(_block_key(network.name, block.address), block.revision))
        changes = (
            *(Put(key, endpoint.owner) for key in claims),
            Put(_endpoint_key(endpoint), _encode_endpoint(endpoint)),
        )
        if self._claim(member, (*known, *map(Unchanged, claims)), changes) is not None:
            return None
        holders = {ip: self.holder(endpoint.network, ip) for ip in endpoint.ips}
        for ip, holder in holders.items():
            if holder not in ("", endpoint.owner):
                return ip
        if endpoint == self.published(endpoint.network, endpoint.node, endpoint.key):
            return None  # done, though nobody was told: the store's answer was lost
        raise Outdated

    def holder(self, network: str, ip: bytes) -> str:
        """Who has an address, as ``<node>/<container ID>:<interface>``; "" for nobody."""
        entry = self.store.get(_ip_key(network, ip))
        return entry.value if entry else ""

    def published(self, network: str, node: str, key: EndpointKey) -> Published | None:
        """An endpoint of a host, None where it is not known."""
        entry = self.store.get(f"endpoints/{network}/{node}/{key}")
        return _decoded(entry, _published) if entry else None

    def endpoints(self, network: str, node: str = "") -> list[Published]:
        """The endpoints of a network, on all hosts or on one."""
        prefix = f"endpoints/{network}/" + (f"{node}/" if node else "")
        return [_decoded(entry, _published) for entry in self.store.range(prefix).entries]

    def withdraw(self, network: str, node: str, key: EndpointKey) -> None:
        """Forget an endpoint and its addresses, those that it still has."""
        known = self.store.get(f"endpoints/{network}/{node}/{key}")
        if known is None:
            return
        endpoint = _decoded(known, _published)
        conditions = [Unchanged(known.key, known.revision)]
        changes = [Delete(known.key)]
        for ip in endpoint.ips:
            entry = self.store.get(_ip_key(network, ip))
            if entry is not None and entry.value == endpoint.owner:
                conditions.append(Unchanged(entry.key, entry.revision))
                changes.append(Delete(entry.key))
        if self.store.commit(tuple(conditions), tuple(changes)) is None:
            raise TryAgainLater(f"{endpoint.owner} is being withdrawn by somebody else")

    def fence(self, node: str) -> None:
        """Let a host go for good: it is no member, and others may have what it had.

        The membership goes first, so that the host can claim nothing any more.
        """
        self.store.commit((), (Delete(f"members/{node}"), Delete(f"alive/{node}")))
        for network in self.networks():
            for endpoint in self.endpoints(network.name, node):
                self.withdraw(network.name, node, endpoint.key)
            for block in self.blocks(network.name, node):
                self.release_block(network.name, block)

    def _claim(
        self, member: Member, conditions: tuple[Unchanged, ...], changes: tuple[Put, ...]
    ) -> int | None:
        own = Unchanged(f"members/{member.node}", member.revision)
        revision = self.store.commit((own, *conditions), changes)
        if revision is not None:
            return revision
        entry = self.store.get(own.key)
        if entry is None or entry.revision != member.revision:
            raise NotAvailable(
                f'this host, "{member.node}", is no member of the cluster any more: it was '
                f"fenced, or another one took its name",
                details="its agent has it join again, without the addresses it had",
            )
        return None

    def _free_vni(self) -> int:
        taken = {int(each.key.rpartition("/")[2]) for each in self.store.range("vnis/").entries}
        return next(each for each in range(_FIRST_VNI, _LAST_VNI + 1) if each not in taken)

    def _delete_all(self, keys: list[str]) -> None:
        for at in range(0, len(keys), _TXN_OPS):
            self.store.commit((), tuple(map(Delete, keys[at : at + _TXN_OPS])))


def mac_of(ips: tuple[bytes, ...]) -> bytes:
    """The MAC address of an endpoint, which follows from its first address.

    So an address that moves to another host takes its MAC address along. IPv4's whole
    address is in it, of IPv6 the last 32 bits, which are unique within a host's block.
    """
    first = min(ips, key=len)
    return bytes([0x02, 0x42 if len(first) == 4 else 0x46]) + first[-4:]


def endpoint_of(key: str, value: str) -> Published:
    """The endpoint that an entry below ``endpoints/`` means. Raises StateFailure."""
    return _decoded(Entry(key, value, 0), _published)


def _decoded(entry: Entry, decode: "Callable[[str, dict[str, object]], T]") -> "T":
    try:
        fields = json.loads(entry.value)
        if type(fields) is not dict:
            raise ValueError("not an object")
        return decode(entry.key, fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateFailure(
            f'"{entry.key}" of the cluster makes no sense: {error}: {json.shorten(entry.value)}',
            details="an older or newer version may have written it, or somebody by hand",
        ) from None


def _member_of(entry: Entry) -> Member:
    return _decoded(entry, _member).replace(revision=entry.revision)


def decode_network(name: str, value: str, revision: int) -> SharedNetwork:
    """The network that a value means. Raises StateFailure."""
    return _network_of(Entry(f"networks/{name}", value, revision))


def _network_of(entry: Entry) -> SharedNetwork:
    return _decoded(entry, _network).replace(revision=entry.revision)


def _member(key: str, fields: dict[str, object]) -> Member:
    return Member(key.rpartition("/")[2], parse_ip(str(fields["vtep"])), _number(fields["mtu"]))


def _number(value: object) -> int:
    if type(value) is not int:
        raise ValueError(f"not a number: {json.shorten(value)}")
    return value


def _items(value: object) -> "Iterator[dict[str, object]]":
    if type(value) is not list:
        raise ValueError(f"not a list: {json.shorten(value)}")
    yield from value


def encode_network(network: SharedNetwork) -> str:
    """The value of a network's key."""
    return json.dumps(
        {
            "vni": network.vni,
            "port": network.port,
            "mtu": network.mtu,
            "internal": network.internal,
            "subnets": [
                {"subnet": str(each.address), "gateway": format_ip(each.gateway)}
                for each in network.subnets
            ],
        }
    )


def _network(key: str, fields: dict[str, object]) -> SharedNetwork:
    return SharedNetwork(
        name=key.rpartition("/")[2],
        vni=_number(fields["vni"]),
        port=_number(fields["port"]),
        mtu=_number(fields["mtu"]),
        internal=fields["internal"] is True,
        subnets=tuple(
            Subnet(parse_address(str(each["subnet"])), parse_ip(str(each["gateway"])))
            for each in _items(fields["subnets"])
        ),
    )


def _encode_endpoint(endpoint: Published) -> str:
    return json.dumps(
        {
            "ips": [format_ip(ip) for ip in endpoint.ips],
            "mac": format_mac(endpoint.mac),
            "vtep": format_ip(endpoint.vtep),
        }
    )


def _published(key: str, fields: dict[str, object]) -> Published:
    _, network, node, name = key.split("/")
    container_id, _, ifname = name.partition(":")
    ips = fields["ips"]
    if type(ips) is not list:
        raise ValueError("ips is not a list")
    return Published(
        network=network,
        node=node,
        key=EndpointKey(container_id, ifname),
        ips=tuple(parse_ip(str(ip)) for ip in ips),
        mac=parse_mac(str(fields["mac"])),
        vtep=parse_ip(str(fields["vtep"])),
    )


def _vtep_in_use(wanted: Member, holder: Member) -> InvalidNetworkConfig:
    return InvalidNetworkConfig(
        f'underlay: {format_ip(wanted.vtep)} is the address of member "{holder.node}" of the '
        f'cluster, and this host is "{wanted.node}"',
        details="give each host an address of its own; a host that was renamed is let go with "
        f'"cnm node fence {holder.node}"',
    )


def _refuse_difference(wanted: SharedNetwork, present: SharedNetwork) -> None:
    """Refuse a configuration that means another network than the cluster has by that name."""
    wanted = wanted.replace(vni=wanted.vni or present.vni, mtu=wanted.mtu or present.mtu)
    for field in ("vni", "port", "mtu", "internal"):
        asked, has = getattr(wanted, field), getattr(present, field)
        if asked != has:
            raise InvalidNetworkConfig(
                f"{field}: is {json.dumps(asked)} here, and {json.dumps(has)} for network "
                f'"{present.name}" in the cluster',
                details="a network is the same on all hosts; give another one another name",
            )
    if wanted.subnets != present.subnets:
        asked, has = (", ".join(map(str, each.subnets)) for each in (wanted, present))
        raise InvalidNetworkConfig(
            f'subnets: are {asked} here, and {has} for network "{present.name}" in the cluster',
            details="a network is the same on all hosts; give another one another name",
        )


def _refuse_overlap(wanted: SharedNetwork, present: list[SharedNetwork]) -> None:
    for network in present:
        for theirs in network.subnets:
            for ours in wanted.subnets:
                if ours.address.ip in theirs.address or theirs.address.ip in ours.address:
                    raise InvalidNetworkConfig(
                        f"subnets: {ours.address} overlaps with {theirs.address} of network "
                        f'"{network.name}" in the cluster',
                        details="choose another subnet",
                    )


def _block_key(network: str, block: Address) -> str:
    return f"blocks/{network}/{format_ip(block.ip)}_{block.prefix}"


def _block_of(entry: Entry) -> Block:
    return Block(parse_address(entry.key.rpartition("/")[2].replace("_", "/")), entry.revision)


def _block_length(subnet: Address) -> int:
    """The prefix length of a subnet's blocks: some for each host, and for eight hosts at least."""
    bits = len(subnet.ip) * 8
    usual = _BLOCK_LENGTHS[bits]
    return max(subnet.prefix, usual, min(subnet.prefix + 3, bits - 2))


def _free_block(network: str, subnet: Address, taken: set[str]) -> Address | None:
    """The first block of a subnet whose key is not taken."""
    length = _block_length(subnet)
    size = 1 << (len(subnet.ip) * 8 - length)
    first = int.from_bytes(subnet.ip, "big")
    for number in range(1 << (length - subnet.prefix)):
        block = Address((first + number * size).to_bytes(len(subnet.ip), "big"), length)
        if _block_key(network, block) not in taken:
            return block
    return None


def _ip_key(network: str, ip: bytes) -> str:
    return f"ips/{network}/{format_ip(ip)}"


def _endpoint_key(endpoint: Published) -> str:
    return f"endpoints/{endpoint.network}/{endpoint.owner}"
