"""How what the hosts of an overlay have written down together (entries.py) may change.

A version that means something else by these keys writes ``schema`` before it does, and
this one keeps away then: every transaction has the absence as a condition.

An entry that makes no sense counts as absent wherever many are read, and is reported.

What is claimed is claimed by a transaction on the absence of its key, and on the host's
own membership as it was when it joined: a host that has been fenced can claim nothing.
A claim is made once and never changed: one that was, or a block across another's, is no
claim by these rules.
"""

from cnm_core import json
from cnm_core.errors import (
    ClaimConflict,
    Error,
    InvalidNetworkConfig,
    NotAvailable,
    StateFailure,
    TryAgainLater,
)
from cnm_core.inet import (
    Address,
    format_ip,
    to_int,
    to_ip,
)
from cnm_core.model import EndpointKey
from cnm_core.store.entries import (
    VNIS,
    Block,
    Claim,
    Member,
    Published,
    SharedNetwork,
    block_key,
    claim_in,
    encode_endpoint,
    encode_member,
    encode_network,
    endpoint_in,
    endpoint_key,
    endpoint_place,
    ip_key,
    member_in,
    network_in,
)
from cnm_core.store.shared import Delete, Entry, Holds, Put, Unchanged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from typing import TypeVar

    from cnm_core.store.shared import SharedStore

    T = TypeVar("T")

# VNIs that are given out; below them those that other systems use by default.
_FIRST_VNI = 4097
_LAST_MADE = "subnets"
_SCHEMA = "schema"
# A subnet is given out in blocks of these prefix lengths, for each host one and more as needed.
_BLOCK_LENGTHS = {32: 27, 128: 120}
# What a network has the same on all hosts: the configuration's key for each field.
_SAME = {
    "vni": "vni",
    "port": "port",
    "mtu": "mtu",
    "internal": "internal",
    "mode": "mode",
    "bum": "bum",
    "txChecksum": "tx_checksum",
    "encrypted": "encrypted",
}
_ATTEMPTS = 100
# etcd's own limit of operations in one transaction (--max-txn-ops).
_TXN_OPS = 120


class Outdated(Exception):
    """What a host knew of itself or of a network does not hold any more: look again."""


class Cluster:
    """The shared state of one cluster, over its store.

    `ignored` is told of what makes no sense there, or breaks the rules, and is passed over.
    """

    def __init__(self, store: "SharedStore", ignored: "Callable[[Error], None]") -> None:
        self.store = store
        self.ignored = ignored

    def check_schema(self) -> None:
        """Raise StateFailure where a newer version has taken the store over."""
        found = self.store.get(_SCHEMA)
        if found is not None:
            raise StateFailure(
                f"the cluster is of schema {json.shorten(found.value)}, and this version of cnm "
                "knows schema 1 only",
                details="install on this host the version of cnm that the other hosts have",
            )

    def members(self) -> list[Member]:
        """All hosts."""
        return list(self.read_all("members/", member_in))

    def has_member(self, node: str) -> bool:
        """Whether a host of that name is a member, whatever is said of it."""
        return self.store.get(f"members/{node}") is not None

    def join(self, wanted: Member) -> Member:
        """Make a host a member, or change its VTEP or MTU. Raises InvalidNetworkConfig.

        Two hosts with one VTEP would take each other's traffic.
        """
        key = f"members/{wanted.node}"
        for _ in range(_ATTEMPTS):
            entry = self.store.get(key)
            others = []
            for each in self.members():
                if each.node != wanted.node:
                    others.append(each)
                elif entry and each == wanted.replace(revision=entry.revision):
                    return each
            for each in others:
                if each.vtep == wanted.vtep:
                    raise _vtep_in_use(wanted, each)
            since = entry.revision if entry else 0
            put = Put(key, encode_member(wanted, entry.value if entry else ""))
            revision = self._commit((Unchanged(key, since),), (put,))
            if revision is not None:
                return wanted.replace(revision=revision)
        raise TryAgainLater(f'member "{wanted.node}" is being changed by too many at once')

    def announce(self, node: str, lease: int) -> None:
        """Have a host count as alive while its lease is."""
        self._commit((), (Put(f"alive/{node}", "", lease),))

    def is_announced(self, node: str) -> bool:
        """Whether a host counts as alive."""
        return self.store.get(f"alive/{node}") is not None

    def alive(self) -> set[str]:
        """The hosts whose agents are there."""
        return {each.key.rpartition("/")[2] for each in self.store.range("alive/").entries}

    def network(self, name: str) -> SharedNetwork | None:
        """A network of that name, None where there is none."""
        entry = self.store.get(f"networks/{name}")
        return network_in(entry) if entry else None

    def networks(self) -> list[SharedNetwork]:
        """All networks."""
        return list(self.read_all("networks/", network_in))

    def create_network(self, wanted: SharedNetwork, mtu: int) -> SharedNetwork:
        """Make a network known, with a VNI of its own; the one of that name if it is the same.

        `mtu` is what the underlay leaves to one that wants none of its own. Raises
        InvalidNetworkConfig where name, VNI or a subnet is another network's.
        """
        for _ in range(_ATTEMPTS):
            last = self.store.get(_LAST_MADE)
            present = self.network(wanted.name)
            if present is not None:
                _refuse_difference(wanted, present)
                return present
            made = wanted.replace(
                vni=wanted.vni or self._free_vni(), mtu=wanted.mtu or wanted.leaves(mtu)
            )
            holder = self.store.get(f"vnis/{made.vni}")
            if holder is not None and wanted.vni and holder.value != wanted.name:
                raise InvalidNetworkConfig(
                    f'vni: {made.vni} is that of network "{holder.value}"',
                    details="leave vni out to be given a free one",
                )
            # One of the same name was made just now: the transaction finds that out.
            _refuse_overlap(made, [each for each in self.networks() if each.name != made.name])
            changes = (
                Put(f"networks/{made.name}", encode_network(made)),
                Put(f"vnis/{made.vni}", made.name),
            )
            # One of its own name is what a network left that somebody removed by hand.
            left = holder.revision if holder and holder.value == made.name else 0
            conditions = (
                Unchanged(_LAST_MADE, last.revision if last else 0),
                Unchanged(f"networks/{made.name}"),
                Unchanged(f"vnis/{made.vni}", left),
            )
            revision = self._commit(conditions, (*changes, Put(_LAST_MADE, made.name)))
            if revision is not None:
                return made.replace(revision=revision)
        raise TryAgainLater(f'network "{wanted.name}" is being made by too many at once')

    def conflists(self) -> dict[str, str]:
        """What files of networks say beside the networks, of those that hosts are to have."""
        found = self.store.range("conflists/").entries
        return {each.key.partition("/")[2]: each.value for each in found}

    def share_conflist(self, network: SharedNetwork, content: str) -> None:
        """Have all hosts have a file of a network; what it says beside it is said once."""
        key = f"conflists/{network.name}"
        known = Unchanged(f"networks/{network.name}", network.revision)
        self._commit((known, Unchanged(key)), (Put(key, content),))

    def forget_conflist(self, network: str) -> bool:
        """Have no host have a file of a network that is gone; False where it is there."""
        gone = Unchanged(f"networks/{network}")
        return self._commit((gone,), (Delete(f"conflists/{network}"),)) is not None

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
        keys.append(f"conflists/{network.name}")
        self._delete_all([*keys, f"vnis/{network.vni}", f"networks/{network.name}"])

    def blocks(self, network: str, node: str) -> tuple[Block, ...]:
        """The blocks of a network that a host has. Raises ClaimConflict where one is another's."""
        claims = self.claims(network)
        for each in claims:
            conflict = _conflict(network, each, claims)
            if conflict is not None and each.node == node:
                raise conflict
            if conflict is not None:
                self.ignored(conflict)
        return tuple(each.block for each in claims if each.node == node)

    def claims(self, network: str) -> list[Claim]:
        """Every block of a network that some host has."""
        return list(self.read_all(f"blocks/{network}/", claim_in))

    def claim_block(self, network: str, subnet: Address, member: Member) -> Block:
        """A block of a subnet that no host has.

        Raises TryAgainLater where all are taken, Outdated where the host was fenced.
        """
        for _ in range(_ATTEMPTS):
            taken = [each.block.address for each in self.claims(network)]
            block = _free_block(subnet, taken)
            if block is None:
                raise TryAgainLater(
                    f'every block of {subnet} of network "{network}" is some host\'s',
                    details='"cnm node fence" frees those of a host that is gone for good',
                )
            key = block_key(network, block)
            revision = self.claim(member, (Unchanged(key),), (Put(key, member.node),))
            if revision is not None:
                return Block(block, revision)
        raise TryAgainLater(f'blocks of network "{network}" are taken by too many at once')

    def release_block(self, network: str, block: Block) -> None:
        """Give a block back, if the host still has it as it claimed it."""
        key = block_key(network, block.address)
        self._commit((Unchanged(key, block.revision),), (Delete(key),))

    def publish(
        self,
        endpoint: Published,
        member: Member,
        network: SharedNetwork,
        blocks: "tuple[Block, ...]",
    ) -> bytes | None:
        """Claim an endpoint's addresses and make it known, in one transaction.

        An address that somebody has is the answer; None means that it is done. Raises
        Outdated where the host was fenced, the network was removed, or one of the blocks that
        the addresses are out of is not the host's any more.
        """
        claims = tuple(ip_key(endpoint.network, ip) for ip in endpoint.ips)
        known = [Unchanged(f"networks/{network.name}", network.revision)]
        for block in blocks:
            if any(ip in block.address for ip in endpoint.ips):
                known.append(Unchanged(block_key(network.name, block.address), block.revision))
        changes = (
            *(Put(key, endpoint.owner) for key in claims),
            Put(endpoint_key(endpoint), encode_endpoint(endpoint)),
        )
        if self.claim(member, (*known, *map(Unchanged, claims)), changes) is not None:
            return None
        holders = {ip: self.holder(endpoint.network, ip) for ip in endpoint.ips}
        for ip, holder in holders.items():
            if holder not in ("", endpoint.owner):
                return ip
        if endpoint == self.published(endpoint.network, endpoint.node, endpoint.key):
            return None  # done, though nobody was told: the store's answer was lost
        raise Outdated

    def relocate(self, network: str, key: EndpointKey, member: Member, vtep: bytes) -> None:
        """Have an endpoint of a host be known at the host's VTEP. Raises Outdated."""
        entry = self.store.get(f"endpoints/{network}/{member.node}/{key}")
        endpoint = self._sense(entry, endpoint_in) if entry else None
        if entry is not None and endpoint is not None:
            value = encode_endpoint(endpoint.replace(vtep=vtep), entry.value)
            self.claim(member, (Unchanged(entry.key, entry.revision),), (Put(entry.key, value),))

    def holder(self, network: str, ip: bytes) -> str:
        """Who has an address, as ``<node>/<container ID>:<interface>``; "" for nobody."""
        entry = self.store.get(ip_key(network, ip))
        return entry.value if entry else ""

    def published(self, network: str, node: str, key: EndpointKey) -> Published | None:
        """An endpoint of a host, None where it is not known."""
        entry = self.store.get(f"endpoints/{network}/{node}/{key}")
        return self._sense(entry, endpoint_in) if entry else None

    def endpoints(self, network: str = "", node: str = "") -> list[Published]:
        """The endpoints of a network, or of all; on all hosts, or on one."""
        prefix = "endpoints/" + (f"{network}/" if network else "")
        prefix += f"{node}/" if network and node else ""
        found = self.read_all(prefix, endpoint_in)
        return [each for each in found if node in ("", each.node)]

    def endpoints_until(
        self, network: str, until: int | None = None
    ) -> tuple[list[Published], int]:
        """The endpoints of a network, or those known at a revision, and the newest revision."""
        found = self.store.range(f"endpoints/{network}/")
        entries = [each for each in found.entries if until is None or each.revision <= until]
        known = [self._sense(each, endpoint_in) for each in entries]
        return [each for each in known if each is not None], found.revision

    def withdraw(
        self,
        network: str,
        node: str,
        key: EndpointKey,
        ips: "Collection[bytes]" = (),
        still: "Callable[[], bool] | None" = None,
    ) -> None:
        """Forget an endpoint and its addresses, those that it still has.

        If it has exactly those that are given, one request does it. Who may come too late
        says with `still` whether it is to go: an endpoint of that key may have come back.
        """
        names = [ip_key(network, ip) for ip in ips]
        held = tuple(Holds(name, f"{node}/{key}") for name in names)
        gone = (Delete(f"endpoints/{network}/{node}/{key}"), *map(Delete, names))
        if held and self._commit(held, gone) is not None:
            return
        for _ in range(_ATTEMPTS):
            known = self.store.get(f"endpoints/{network}/{node}/{key}")
            if known is None or (still is not None and not still()):
                return
            endpoint = self._sense(known, endpoint_in)
            conditions = [Unchanged(known.key, known.revision)]
            changes = [Delete(known.key)]
            for entry in self._claimed(network, endpoint):
                if entry.value == f"{node}/{key}":
                    conditions.append(Unchanged(entry.key, entry.revision))
                    changes.append(Delete(entry.key))
            if self._commit(tuple(conditions), tuple(changes)) is not None:
                return
        raise TryAgainLater(f"{node}/{key} is being withdrawn by too many at once")

    def leave(self, node: str) -> None:
        """Be no member any more, of a cluster that has no network; of another nothing happens."""
        last = self.store.get(_LAST_MADE)
        if not self.store.range("networks/").entries:
            own = (*_of_host(node), _LAST_MADE)
            since = last.revision if last else 0
            self._commit((Unchanged(_LAST_MADE, since),), tuple(map(Delete, own)))

    def fence(self, node: str) -> None:
        """Let a host go for good: it is no member, and others may have what it had.

        The membership goes first, so that the host can claim nothing any more.
        """
        self._commit((), tuple(map(Delete, _of_host(node))))
        for each in self.store.range("endpoints/").entries:
            place = endpoint_place(each.key)
            if place is not None and place[1] == node:
                self.withdraw(*place)
        for each in self.store.range("blocks/").entries:
            if each.value == node:
                self._commit((Unchanged(each.key, each.revision),), (Delete(each.key),))

    def _commit(
        self, conditions: "tuple[Unchanged | Holds, ...]", changes: "tuple[Put | Delete, ...]"
    ) -> int | None:
        """Do changes where conditions hold, in a store of the schema that this version knows."""
        revision = self.store.commit((Unchanged(_SCHEMA), *conditions), changes)
        if revision is None:
            self.check_schema()
        return revision

    def read_all(self, prefix: str, decode: "Callable[[Entry], T]") -> "Iterator[T]":
        """What the entries below a prefix mean, those that mean something."""
        for entry in self.store.range(prefix).entries:
            found = self._sense(entry, decode)
            if found is not None:
                yield found

    def _sense(self, entry: Entry, decode: "Callable[[Entry], T]") -> "T | None":
        """What an entry means; None, and a report, where it makes no sense."""
        try:
            return decode(entry)
        except StateFailure as error:
            self.ignored(error)
            return None

    def _claimed(self, network: str, endpoint: Published | None) -> "Iterator[Entry]":
        """The addresses of an endpoint, or all of its network where its entry is damaged."""
        if endpoint is None:
            yield from self.store.range(f"ips/{network}/").entries
            return
        for ip in endpoint.ips:
            entry = self.store.get(ip_key(network, ip))
            if entry is not None:
                yield entry

    def claim(
        self, member: Member, conditions: tuple[Unchanged, ...], changes: tuple[Put, ...]
    ) -> int | None:
        """Write what only a member may write: the revision, None where a condition fails.

        Raises Outdated where the host is no member as it was when it joined.
        """
        own = Unchanged(f"members/{member.node}", member.revision)
        revision = self._commit((own, *conditions), changes)
        if revision is not None:
            return revision
        entry = self.store.get(own.key)
        if entry is None or entry.revision != member.revision:
            raise Outdated
        return None

    def _free_vni(self) -> int:
        taken = {each.key for each in self.store.range("vnis/").entries}
        return next(each for each in VNIS[_FIRST_VNI - 1 :] if f"vnis/{each}" not in taken)

    def _delete_all(self, keys: list[str]) -> None:
        for at in range(0, len(keys), _TXN_OPS):
            self._commit((), tuple(map(Delete, keys[at : at + _TXN_OPS])))


def _of_host(node: str) -> tuple[str, ...]:
    """The keys that say that a host is there."""
    return f"members/{node}", f"alive/{node}", f"tunnels/{node}", f"tunnels-esp/{node}"


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
    for key, field in _SAME.items():
        asked, has = getattr(wanted, field), getattr(present, field)
        if asked != has:
            raise InvalidNetworkConfig(
                f"{key}: is {json.dumps(asked)} here, and {json.dumps(has)} for network "
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
                if ours.address.overlaps(theirs.address):
                    raise InvalidNetworkConfig(
                        f"subnets: {ours.address} overlaps with {theirs.address} of network "
                        f'"{network.name}" in the cluster',
                        details="choose another subnet",
                    )


def _conflict(network: str, claim: Claim, claims: list[Claim]) -> ClaimConflict | None:
    """What is wrong with a claim: it was another host's, or is across an earlier one of it."""
    address = claim.block.address
    if claim.changed:
        return ClaimConflict(
            f'block {address} of network "{network}" was another host\'s and is said to be '
            f'that of "{claim.node}" now, though it was never given back',
            details=f'remove "{block_key(network, address)}" from the store; the host that gave '
            "addresses out of it claims it, or another one, again",
        )
    for each in claims:
        other = each.block.address
        earlier = each.block.revision < claim.block.revision
        if each.node != claim.node and earlier and address.overlaps(other):
            return ClaimConflict(
                f'block {address} of network "{network}", claimed by "{claim.node}", is across '
                f'{other}, which is that of "{each.node}"',
                details=f'remove "{block_key(network, address)}" from the store',
            )
    return None


def block_at(subnet: Address, ip: bytes) -> Address:
    """The block of a subnet that an address is in."""
    return Address(ip, _block_length(subnet)).network


def first_of(block: Address) -> bytes:
    """A block's first address, which is the gateway in a network that is routed."""
    return to_ip(to_int(block.ip) + 1, len(block.ip))


def _block_length(subnet: Address) -> int:
    """The prefix length of a subnet's blocks: some for each host, and for eight hosts at least."""
    bits = len(subnet.ip) * 8
    usual = _BLOCK_LENGTHS[bits]
    return max(subnet.prefix, usual, min(subnet.prefix + 3, bits - 2))


def _free_block(subnet: Address, taken: list[Address]) -> Address | None:
    """The first block of a subnet that none of the taken ones is across."""
    length = _block_length(subnet)
    size = 1 << (len(subnet.ip) * 8 - length)
    first = int.from_bytes(subnet.ip, "big")
    usual = {each.ip for each in taken if each.prefix == length}
    odd = [each for each in taken if each.prefix != length]
    for number in range(1 << (length - subnet.prefix)):
        block = Address((first + number * size).to_bytes(len(subnet.ip), "big"), length)
        if block.ip not in usual and not any(block.overlaps(each) for each in odd):
            return block
    return None
