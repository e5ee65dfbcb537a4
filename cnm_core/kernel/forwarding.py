"""Forwarding, switched on for all links of a network namespace."""

from cnm_core.errors import KernelRefused
from cnm_core.kernel import link, route, sysctl
from cnm_core.kernel.netlink import Socket

SETTING = {
    4: ("net", "ipv4", "ip_forward"),
    6: ("net", "ipv6", "conf", "all", "forwarding"),
}
_WHILE_NO_ROUTER, _ALWAYS = "1", "2"  # of accept_ra


def switch_on(host: Socket, version: int) -> None:
    """Have all links forward an IP version, and uplinks go on hearing routers. KernelRefused.

    Who forwards IPv6 is a router himself: the kernel then drops the default routes that routers
    have advertised, and their addresses as they run out, except on links where accept_ra is 2
    (rt6_purge_dflt_routers, net/ipv6/route.c). A host would lose its own way out.
    """
    if version == 6:
        for index in route.default_links(host):
            _keep_routers(host, index)
    sysctl.set_to("1", *SETTING[version])


def _keep_routers(host: Socket, index: int) -> None:
    try:
        name = link.parse(host.request(link.get_by_index(index))[0]).name
        setting = ("net", "ipv6", "conf", name, "accept_ra")
        if sysctl.get(*setting) == _WHILE_NO_ROUTER:
            sysctl.set_to(_ALWAYS, *setting)
    except KernelRefused:
        pass  # the link is gone meanwhile, or has no IPv6: nothing to keep
