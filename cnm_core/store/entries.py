"""What the hosts of an overlay have written down together: keys and values of their store.

Keys, all below ``cnm/v1/<cluster>/`` in a store of many clusters:

| key | value |
|---|---|
| ``members/<node>`` | a host: its VTEP, and the MTU that its underlay leaves |
| ``alive/<node>`` | there while the host's agent keeps its lease |
| ``tunnels/<node>`` | a host's public key and port, where it has networks by WireGuard |
| ``tunnels-esp/<node>`` | a host's public key, where it has networks by ESP |
| ``networks/<network>`` | VNI, port, MTU and subnets |
| ``vnis/<VNI>`` | the network that has the VNI |
| ``subnets`` | the network that was made last: of two at once one looks at the other's subnets |
| ``blocks/<network>/<address>_<length>`` | the host that gives these addresses |
| ``ips/<network>/<address>`` | the endpoint that has the address, as ``<node>/<key>`` |
| ``endpoints/<network>/<node>/<key>`` | addresses, MAC address and VTEP of an endpoint |
| ``conflists/<network>`` | there if hosts are to have a file of it: what that says beside it |
| ``schema`` | absent: what all of this means has no other version yet |

Members of an object that a value is may be added at any time; whoever does not know them leaves
them. What of a network's must not be left so, such as how its hosts reach each other, is named in
a list ``needs``, and whoever does not know all of that has no part in the network; this version
knows of "esp" only. What makes no sense is a StateFailure.
"""

from cnm_core import json
from cnm_core.config import formats
from cnm_core.errors import StateFailure
from cnm_core.inet import (
    Address,
    format_ip,
    format_mac,
    parse_address,
    parse_ip,
    parse_mac,
    parse_subnet,
)
from cnm_core.model import EndpointKey
from cnm_core.record import Record
from cnm_core.store.shared import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    T = TypeVar("T")

VNIS = range(1, 1 << 24)
NO_BUM, BRIDGED = "none", "l2"
# The value of a configuration's `encrypted` that has ESP do it.
ESP = "esp"
# What an encrypted network's frames have about them beyond a plain one's (store/tunnels.py):
# VXLAN over IPv6, and WireGuard, or ESP without what it fills up to four bytes.
_WIREGUARD_OVERHEAD, _ESP_OVERHEAD = 80, 74


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

    `mtu` is that of bridges and containers; `revision` that of its making, 0 before. `mode` is
    "l2" or "l3". `encrypted` is True where WireGuard does it, or ESP. `bum` is what becomes of
    frames to everybody or nobody known, "none" or "ingress-replication"; without `tx_checksum`
    VXLAN devices leave checksums to nobody else.
    """

    name: str
    vni: int
    port: int
    mtu: int
    internal: bool
    subnets: tuple[Subnet, ...]
    mode: str = BRIDGED
    bum: str = NO_BUM
    tx_checksum: bool = True
    encrypted: bool | str = False
    revision: int = 0

    @property
    def routed(self) -> bool:
        """Whether hosts route each other's blocks, in place of one bridge over all of them."""
        return self.mode != BRIDGED

    @property
    def floods(self) -> bool:
        """Whether what goes to everybody is sent to each host."""
        return self.bum != NO_BUM

    def leaves(self, mtu: int) -> int:
        """What the network's encryption leaves of the MTU that a host's underlay does.

        ESP fills a packet with its trailer up to a multiple of four bytes (RFC 4303, section
        2.4), so that the rest of the underlay's own MTU is lost: 50 or 70 more than `mtu`.
        """
        if self.encrypted == ESP:
            return mtu - _ESP_OVERHEAD - (mtu + 2) % 4
        return mtu - (_WIREGUARD_OVERHEAD if self.encrypted else 0)


class Block(Record):
    """Addresses that one host gives, since a revision."""

    address: Address
    revision: int


class Claim(Record):
    """A block with the host that has it. `changed` is one that was another's before."""

    block: Block
    node: str
    changed: bool = False


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


def mac_of(ips: tuple[bytes, ...]) -> bytes:
    """The MAC address of an endpoint, which follows from its first address.

    So an address that moves to another host takes its MAC address along. IPv4's whole
    address is in it, of IPv6 the last 32 bits, which are unique within a host's block.
    """
    first = min(ips, key=len)
    return bytes([0x02, 0x42 if len(first) == 4 else 0x46]) + first[-4:]


def endpoint_of(key: str, value: str) -> Published:
    """The endpoint that an entry below ``endpoints/`` means. Raises StateFailure."""
    return endpoint_in(Entry(key, value, 0))


def endpoint_place(key: str) -> tuple[str, str, EndpointKey] | None:
    """Network, host and endpoint of a key below ``endpoints/``; None if it makes no sense."""
    parts = key.split("/")
    container_id, _, ifname = parts[-1].partition(":")
    if len(parts) != 4 or not all(parts) or not container_id or not ifname:
        return None
    return parts[1], parts[2], EndpointKey(container_id, ifname)


def decoded(entry: Entry, decode: "Callable[[str, dict[str, object]], T]") -> "T":
    """What an entry means to a decoder of its key and fields. Raises StateFailure."""
    try:
        fields = json.loads(entry.value)
        if type(fields) is not dict:
            raise ValueError("not an object")
        return decode(entry.key, fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise senseless(entry, error) from None


def senseless(entry: Entry, error: Exception) -> StateFailure:
    why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return StateFailure(
        f'"{entry.key}" of the cluster makes no sense: {why}: {json.shorten(entry.value)}',
        details="an older or newer version may have written it, or somebody by hand",
    )


def _name_of(key: str) -> str:
    """The name in a key of two segments."""
    _, _, name = key.partition("/")
    if not name or "/" in name:
        raise ValueError("the key is not of two segments")
    return name


def member_in(entry: Entry) -> Member:
    return decoded(entry, _member).replace(revision=entry.revision)


def encode_member(member: Member, present: str) -> str:
    """The value of a member's key, with what another version has written there."""
    own = {"vtep": format_ip(member.vtep), "mtu": member.mtu}
    return json.dumps({**_members_of(present), **own})


def _members_of(value: str) -> dict[str, object]:
    """What an object has, {} where a value is none."""
    try:
        fields = json.loads(value)
    except ValueError:
        return {}
    return fields if type(fields) is dict else {}


def decode_network(name: str, value: str, revision: int) -> SharedNetwork:
    """The network that a value means. Raises StateFailure."""
    return network_in(Entry(f"networks/{name}", value, revision))


def network_in(entry: Entry) -> SharedNetwork:
    return decoded(entry, _network).replace(revision=entry.revision)


def endpoint_in(entry: Entry) -> Published:
    return decoded(entry, _published)


def _member(key: str, fields: dict[str, object]) -> Member:
    return Member(_name_of(key), parse_ip(str(fields["vtep"])), _number(fields, "mtu", 0))


def _number(fields: dict[str, object], name: str, least: int, most: int = 1 << 32) -> int:
    value = fields[name]
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is not a number from {least} to {most}")
    return value


def _items(value: object) -> "Iterator[dict[str, object]]":
    if type(value) is not list or not all(type(each) is dict for each in value):
        raise ValueError(f"not a list of objects: {json.shorten(value)}")
    yield from value


def encode_network(network: SharedNetwork) -> str:
    """The value of a network's key."""
    return json.dumps(
        {
            "vni": network.vni,
            "port": network.port,
            "mtu": network.mtu,
            "internal": network.internal,
            "mode": network.mode,
            "bum": network.bum,
            "txChecksum": network.tx_checksum,
            # A version that knows of WireGuard alone refuses it, one without "needs" fails closed.
            "encrypted": bool(network.encrypted),
            **({"needs": [ESP]} if network.encrypted == ESP else {}),
            "subnets": [
                {"subnet": str(each.address), "gateway": format_ip(each.gateway)}
                for each in network.subnets
            ],
        }
    )


def _network(key: str, fields: dict[str, object]) -> SharedNetwork:
    _refuse_unknown(fields)
    subnets = tuple(
        Subnet(parse_address(str(each["subnet"])), parse_ip(str(each["gateway"])))
        for each in _items(fields["subnets"])
    )
    if not subnets or any(each.gateway not in each.address for each in subnets):
        raise ValueError("subnets: is empty, or a gateway is not in its subnet")
    return SharedNetwork(
        name=_name_of(key),
        vni=_number(fields, "vni", 1, VNIS[-1]),
        port=_number(fields, "port", 1, 65535),
        mtu=_number(fields, "mtu", 68, 65535),
        internal=fields["internal"] is True,
        subnets=subnets,
        mode=formats.overlay_mode(str(fields.get("mode", BRIDGED))),
        bum=formats.bum(str(fields.get("bum", NO_BUM))),
        tx_checksum=fields.get("txChecksum") is not False,
        encrypted=ESP if fields.get("needs") else fields.get("encrypted") is True,
    )


def _refuse_unknown(fields: dict[str, object]) -> None:
    """Of what is not known, no guess: what is no plain network is not to be taken for one."""
    needs = fields.get("needs") or []
    if needs not in ([], [ESP]):
        raise ValueError(f"needs {json.shorten(needs)}, which this version of cnm does not know")
    for name in ("internal", "txChecksum", "encrypted"):
        if type(fields.get(name, False)) is not bool:
            raise ValueError(f"{name} is not true or false")


def encode_endpoint(endpoint: Published, present: str = "{}") -> str:
    """The value of an endpoint's key, with what another version has written there."""
    return json.dumps(
        {
            **_members_of(present),
            "ips": [format_ip(ip) for ip in endpoint.ips],
            "mac": format_mac(endpoint.mac),
            "vtep": format_ip(endpoint.vtep),
        }
    )


def _published(key: str, fields: dict[str, object]) -> Published:
    place = endpoint_place(key)
    if place is None:
        raise ValueError("the key is not endpoints/<network>/<node>/<container ID>:<interface>")
    ips = fields["ips"]
    if type(ips) is not list or not ips:
        raise ValueError("ips is not a list of addresses")
    mac = parse_mac(str(fields["mac"]))
    if mac[0] & 1 or not any(mac):
        raise ValueError("mac is no address of one interface")  # zeros mean all hosts to VXLAN
    network, node, endpoint = place
    return Published(
        network=network,
        node=node,
        key=endpoint,
        ips=tuple(parse_ip(str(ip)) for ip in ips),
        mac=mac,
        vtep=parse_ip(str(fields["vtep"])),
    )


def block_key(network: str, block: Address) -> str:
    return f"blocks/{network}/{format_ip(block.ip)}_{block.prefix}"


def claim_in(entry: Entry) -> Claim:
    try:
        _, _, name = entry.key.split("/")
        address = parse_subnet(name.replace("_", "/"))
        if not entry.value or "/" in entry.value:
            raise ValueError("the value is no host")
    except ValueError as error:
        raise senseless(entry, error) from None
    return Claim(Block(address, entry.revision), entry.value, entry.created != entry.revision)


def ip_key(network: str, ip: bytes) -> str:
    return f"ips/{network}/{format_ip(ip)}"


def endpoint_key(endpoint: Published) -> str:
    return f"endpoints/{endpoint.network}/{endpoint.owner}"
