"""The container's end of an endpoint, whatever driver made it: addresses and routes."""

from errno import ENOENT
from posix import _exit, closerange, fork
from time import monotonic, sleep

from cnm_core.errors import AddressInUse, InvalidNetworkConfig, KernelRefused, TryAgainLater
from cnm_core.inet import format_mac
from cnm_core.kernel import address, link, route, sysctl
from cnm_core.kernel.link import Link
from cnm_core.kernel.netlink import Request, Socket
from cnm_core.kernel.netns import Netns, find_netns
from cnm_core.model import (
    Addressing,
    Attachment,
    Endpoint,
    EndpointKey,
    Interface,
    Route,
    gateways,
)

_DAD_SECONDS = 5
_IPV6_MTU = 1280  # below, a link has no IPv6 (RFC 8200, section 5; addrconf_notify)


def interface(of: Link, sandbox: str = "") -> Interface:
    """A link as an attachment lists it, of the host or of the sandbox with that path."""
    return Interface(of.name, format_mac(of.mac), of.mtu, sandbox)


def attached(addressing: Addressing, *interfaces: Interface) -> Attachment:
    """The attachment of an endpoint whose addresses are on its one link in the sandbox."""
    end = next(index for index, each in enumerate(interfaces) if each.sandbox)
    return Attachment(
        interfaces=interfaces,
        leases=addressing.leases,
        lease_interfaces=(end,) * len(addressing.leases),
        routes=addressing.routes,
        dns=addressing.dns,
    )


def configure(name: str, addressing: Addressing, netns: Netns, *, up: bool, dad: bool) -> Link:
    """Address a link of the sandbox and bring it up, or leave it down; the link as it was made.

    With `dad`, wait for duplicate address detection of IPv6. Raises AddressInUse for a
    duplicate, TryAgainLater where that takes too long, KernelRefused.
    """
    with netns:
        if any(lease.address.version == 6 for lease in addressing.leases):
            _enable_ipv6(name, netns)
            sysctl.set_to("1", "net", "ipv6", "conf", name, "ndisc_notify")
            if not dad:
                sysctl.set_to("0", "net", "ipv6", "conf", name, "accept_dad")
        sysctl.set_to("1", "net", "ipv4", "conf", name, "arp_notify")
    inside = netns.socket()
    found = link.parse(inside.request(link.get(name))[0])
    if up:
        first = gateways(addressing.leases)
        inside.request(
            *(address.add(found.index, lease.address, dad=dad) for lease in addressing.leases),
            link.set_up(found.index, name),
            *(route.add(found.index, resolved(each, first)) for each in addressing.routes),
        )
        if dad:
            _wait_for_dad(inside, found)
    return found


def announce(container_end: Link, netns: Netns, *, apart: bool = False) -> None:
    """Tell neighbours where the link's addresses are now; they may know them by another MAC.

    A gratuitous ARP and an unsolicited neighbour advertisement, which the kernel sends when
    a MAC address is set (arp_notify and ndisc_notify, Documentation/networking/ip-sysctl.rst).
    When the link came up it sent them too, before the other end could take them.

    A bridge hands them to each of its ports before the request returns. With `apart` a child
    process does that waiting, which nobody else needs to; init reaps it.
    """
    request = link.set_mac(container_end.index, container_end.name, container_end.mac)
    if not (apart and _request_apart(netns.socket(), request)):
        netns.socket().request(request)


def _request_apart(socket: Socket, request: Request) -> bool:
    """Have a child process send a request and wait for its end; False if there can be none.

    It lets go of stdin, stdout and stderr, or a runtime that reads to their end would wait for
    it after all. Nobody hears of a failure: neighbours will ask then.
    """
    try:
        child = fork()
    except OSError:
        return False
    if child == 0:
        try:
            closerange(0, 3)
            socket.request(request)
        finally:
            _exit(0)
    return True


def remove(kind: str, key: EndpointKey, endpoint: Endpoint | None, netns: Netns | None) -> None:
    """Delete the sandbox's link of that kind; nothing where the sandbox is gone.

    Without a namespace from the caller it is looked for at the recorded path.
    """
    if netns is None and endpoint is not None:
        netns = find_netns(endpoint.sandbox.netns)
    if netns is None or (endpoint is not None and endpoint.sandbox.identity != netns.identity):
        return  # the namespace is gone, or the path means another by now: so is the link
    found = link.find(netns.socket(), key.ifname)
    if found is not None and found.kind == kind:
        with netns:
            link.delete_if_present(netns.socket(), key.ifname)


def resolved(wanted: Route, first: dict[int, bytes]) -> Route:
    """A route with the gateway of its family, where it names none and none is meant by scope."""
    if wanted.gateway is not None or wanted.scope in (
        address.RT_SCOPE_LINK,
        address.RT_SCOPE_HOST,
    ):
        return wanted
    return wanted.replace(gateway=first.get(wanted.destination.version))


def _enable_ipv6(name: str, netns: Netns) -> None:
    """Have a link take IPv6 addresses. Raises InvalidNetworkConfig where it never does."""
    try:
        _switch_ipv6_on(name)
    except KernelRefused as error:
        found = link.find(netns.socket(), name) if error.errno == ENOENT else None
        if found is not None:
            refuse_small_mtu(found.mtu)
        raise


def refuse_small_mtu(mtu: int) -> None:
    """Raise InvalidNetworkConfig for an MTU with which a link has no IPv6."""
    if mtu < _IPV6_MTU:
        raise InvalidNetworkConfig(
            f"mtu: {mtu} is too small for IPv6, which needs {_IPV6_MTU}",
            details="give a larger mtu, or the network IPv4 addresses only",
        )


def _switch_ipv6_on(name: str) -> None:
    for each in ("lo", name):
        if sysctl.get("net", "ipv6", "conf", each, "disable_ipv6") != "0":
            sysctl.set_to("0", "net", "ipv6", "conf", each, "disable_ipv6")
    sysctl.set_to("1", "net", "ipv6", "conf", name, "keep_addr_on_down")


def _wait_for_dad(inside: Socket, container_end: Link) -> None:
    """Wait until no address is tentative. Raises AddressInUse for a duplicate."""
    deadline = monotonic() + _DAD_SECONDS
    while True:
        present = address.list_of(inside, container_end.index)
        for each in present:
            if each.flags & address.IFA_F_DADFAILED:
                raise AddressInUse(
                    f"{each.address} of {container_end.name} is in use on the network",
                    details="another station answered duplicate address detection",
                )
        if not any(each.flags & address.IFA_F_TENTATIVE for each in present):
            return
        if monotonic() > deadline:
            raise TryAgainLater(f"duplicate address detection took more than {_DAD_SECONDS} s")
        sleep(0.01)
