"""The parent of macvlan and ipvlan links: a link that is there, or one made for a network.

Made are VLAN links such as eth0.10, which the name describes, and for internal networks links
that lead nowhere. The controller records them, and removes them with their last endpoint.
"""

from errno import EBUSY, EINVAL, EOPNOTSUPP

from cnm_core.errors import (
    Error,
    InvalidNetworkConfig,
    KernelRefused,
    NotAvailable,
    UnsupportedField,
)
from cnm_core.kernel import link, route, sysctl, upper, vlan
from cnm_core.kernel.link import Link
from cnm_core.kernel.netlink import Socket
from cnm_core.model import Attachment, Drift, EndpointOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cnm_core.config.ipvlan import IpvlanConfig
    from cnm_core.config.macvlan import MacvlanConfig

    Options = MacvlanConfig | IpvlanConfig

_LEADING_NOWHERE = ("dummy", "ifb")  # kinds of links, the first that the kernel has


def one_of(first: tuple[str, str | None], second: tuple[str, str | None], default: str) -> str:
    """The value of a key that has two names. Raises InvalidNetworkConfig where they differ."""
    if first[1] and second[1] and first[1] != second[1]:
        raise InvalidNetworkConfig(
            f'{second[0]}: must be as {first[0]}, which is "{first[1]}", got "{second[1]}"',
            details="they are two names of one key; leave out one of them",
        )
    return first[1] or second[1] or default


def refuse_contradictions(options: "Options", wanted: EndpointOptions) -> None:
    """Raise InvalidNetworkConfig or UnsupportedField for what cannot go together."""
    _named(options)
    for key, asked in (
        ("master", options.master),
        ("parent", options.parent),
        ("linkInContainer", options.link_in_container),
    ):
        if asked and options.internal:
            raise InvalidNetworkConfig(
                f"internal: cannot be true with {key}",
                details="an internal network has a parent of its own; leave out one of the two",
            )
    if 0 < options.mtu < 68:
        raise InvalidNetworkConfig(
            f"mtu: must be 0 or from 68 to 65535, got {options.mtu}",
            details="leave mtu out to take the parent's",
        )
    if wanted.ports:
        raise UnsupportedField(
            "runtimeConfig.portMappings: ports cannot be published here",
            details="containers are on the parent's network: use their own addresses",
        )


def made(options: "Options", network: str) -> tuple[str, ...]:
    """The name of the parent, if it is one that we make when it is missing."""
    if options.internal:
        return (_isolated_name(network),)
    if options.link_in_container or not _vlan_of(_named(options)):
        return ()
    return (_named(options),)


def find(socket: Socket, options: "Options", network: str) -> Link | None:
    """The parent; None where it is to be made.

    Raises InvalidNetworkConfig where it is missing or unfit, NotAvailable where it is down.
    """
    name = _isolated_name(network) if options.internal else _named(options)
    found = link.find(socket, name) if name else _of_default_route(socket)
    if found is None and options.internal:
        return None
    if found is None:
        parts = _vlan_of(name) if not options.link_in_container else None
        base = link.find(socket, parts[0]) if parts else None
        if base is None:
            raise InvalidNetworkConfig(
                f'{_key(options)}: there is no link "{name}"'
                + (f', nor "{parts[0]}" to make it on' if parts else ""),
                details="give the name of an Ethernet link, as ip link shows it",
            )
        _refuse_unfit(base, options)
        return None
    _refuse_unfit(found, options)
    return found


def ensure(host: Socket, options: "Options", network: str) -> Link:
    """The parent, made where it is missing; the caller has the lock of parents."""
    found = find(host, options, network)
    if found is None:
        (name,) = made(options, network)
        _make_isolated(host, name) if options.internal else _make_vlan(host, name)
        # The host has no part in that network.
        sysctl.set_if_present("1", "net", "ipv6", "conf", name, "disable_ipv6")
        found = link.parse(host.request(link.get(name))[0])
    return found


def drift(
    socket: Socket, options: "Options", network: str, end: Link, attachment: Attachment
) -> list[Drift]:
    """How the parent, and the container's link on it, differ from configuration and attachment."""
    try:
        parent = find(socket, options, network)
    except Error as error:
        return [Drift("parent", "a link that is up", error.msg)]
    if parent is None:
        return [Drift("parent", "a link", "no such link")]
    found = []
    if end.parent != parent.index:
        expected = f"{parent.name}, link {parent.index}"
        found.append(Drift(f"parent of container end {end.name}", expected, f"link {end.parent}"))
    said = (each.mtu for each in attachment.interfaces if each.sandbox and each.name == end.name)
    mtu = options.mtu or next(said, None)
    if mtu and end.mtu != mtu:
        found.append(Drift(f"MTU of container end {end.name}", str(mtu), str(end.mtu)))
    return found


def check_status(host: Socket, options: "Options", network: str, kind: str) -> None:
    """Raise NotAvailable unless the kernel has what an endpoint needs, and the parent is fit."""
    kinds = [kind]
    try:
        refuse_contradictions(options, EndpointOptions())
        if not options.link_in_container and find(host, options, network) is None:
            kinds += [] if options.internal else ["vlan"]
    except InvalidNetworkConfig as error:
        raise NotAvailable(error.msg, details=error.details) from None
    for each in kinds:
        if not upper.supported(host, each):
            raise _missing(each)


def explained(error: KernelRefused, kind: str, parent: Link, *, alone: bool = False) -> Error:
    """Why the kernel makes no link of that kind on the parent, where its errno tells.

    `alone` is whether the link wanted it for itself (macvlan_common_newlink and
    ipvlan_port_create, which take the parent's only rx_handler).
    """
    if error.errno == EOPNOTSUPP:
        return _missing(kind)
    if error.errno == EBUSY:
        if parent.master:
            why = "it is a port of another link, such as a bridge"
        else:
            why = "it carries links of another kind, such as macvlan or ipvlan, or is a bond's"
        return NotAvailable(
            f'"{parent.name}" can have no {kind} links: {why}',
            details="use another parent, or the bridge itself; ip -d link shows what it has",
        )
    if error.errno == EINVAL and kind == "macvlan":
        if alone:
            why = "has macvlan links already, and mode passthru needs it alone"
        else:
            why = "is taken by a macvlan link in mode passthru"
        return NotAvailable(f'"{parent.name}" {why}', details="use another parent")
    if error.errno == EINVAL:
        return NotAvailable(
            f'"{parent.name}" can have no {kind} links: {error.msg}',
            details="a link cannot have both macvlan and ipvlan links; use another parent",
        )
    return error


def _missing(kind: str) -> NotAvailable:
    return NotAvailable(
        f"the kernel has no {kind} links",
        details=f"load the module: modprobe {'8021q' if kind == 'vlan' else kind}",
    )


def _named(options: "Options") -> str:
    return one_of(("master", options.master), ("parent", options.parent), "")


def _key(options: "Options") -> str:
    return "master" if options.master else "parent"


def _vlan_of(name: str) -> tuple[str, int] | None:
    """Base and VLAN in the name of a VLAN link: ("eth0", 10) for eth0.10."""
    base, _, number = name.rpartition(".")
    if base and number.isascii() and number.isdigit() and 1 <= int(number) <= 4094:
        return base, int(number)
    return None


def _isolated_name(network: str) -> str:
    """A name for the parent of an internal network: 48 bits of FNV-1a (RFC 9923)."""
    value = 0xCBF29CE484222325
    for byte in network.encode():
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return f"dm-{value >> 16:012x}"


def _of_default_route(socket: Socket) -> Link:
    index = next(iter(route.default_links(socket)), None)
    if index is None:
        raise InvalidNetworkConfig(
            "master: is missing, and there is no default route whose link it would be",
            details='give "master" the name of an Ethernet link, or say "internal": true',
        )
    return link.parse(socket.request(link.get_by_index(index))[0])


def _refuse_unfit(parent: Link, options: "Options") -> None:
    if len(parent.mac) != 6 or parent.flags & link.IFF_LOOPBACK:
        raise InvalidNetworkConfig(
            f'{_key(options)}: "{parent.name}" is no Ethernet link',
            details="give another, as ip link shows it with link/ether",
        )
    if not parent.up:
        raise NotAvailable(
            f'{_key(options)}: link "{parent.name}" is down',
            details=f"set it up: ip link set {parent.name} up",
        )
    if options.mtu > parent.mtu:
        raise InvalidNetworkConfig(
            f'mtu: {options.mtu} is more than {parent.mtu}, which "{parent.name}" has',
            details="leave mtu out to take the parent's",
        )


def _make_vlan(host: Socket, name: str) -> None:
    parts = _vlan_of(name)
    assert parts is not None
    base = link.parse(host.request(link.get(parts[0]))[0])
    try:
        host.request(vlan.create(name, base.index, parts[1]))
    except KernelRefused as error:
        raise explained(error, "vlan", base) from None


def _make_isolated(host: Socket, name: str) -> None:
    for kind in _LEADING_NOWHERE:
        try:
            host.request(upper.create_isolated(name, kind))
            return
        except KernelRefused as error:
            if error.errno != EOPNOTSUPP:
                raise
    raise NotAvailable(
        f"internal: the kernel has no links of kind {' or '.join(_LEADING_NOWHERE)}",
        details="load a module: modprobe dummy",
    )
