"""Routes as the kernel has them."""

from socket import AF_INET, AF_INET6

import pytest

from cnm_core.inet import format_ip
from cnm_core.kernel import route
from cnm_core.kernel.netlink import Socket
from tests.iproute import HOST


def links_of(*names: str) -> list[int]:
    """The indexes of links."""
    return [HOST.link(name)["ifindex"] for name in names]


@pytest.fixture
def uplinks(node: None) -> None:
    """Three links with addresses, and no default route."""
    for number, name in enumerate(("up1", "up2", "up3"), start=1):
        HOST.ip("link", "add", name, "type", "bridge")
        HOST.ip("addr", "add", f"10.{number}.0.2/24", "dev", name)
        HOST.ip("addr", "add", f"fd00:{number}::2/64", "dev", name, "nodad")
        HOST.ip("link", "set", name, "up")


def test_default_links(uplinks: None) -> None:
    """Links of default routes in the order of their metrics, IPv4's first, each once."""
    assert route.default_links(Socket()) == []
    HOST.ip("route", "add", "default", "via", "10.2.0.1", "metric", "200")
    HOST.ip("route", "add", "default", "via", "10.1.0.1", "metric", "100")
    HOST.ip("-6", "route", "add", "default", "via", "fd00:3::1", "metric", "50")
    HOST.ip("-6", "route", "add", "default", "via", "fd00:1::1", "metric", "60")
    HOST.ip("route", "add", "10.9.0.0/16", "via", "10.3.0.1")
    HOST.ip("route", "add", "default", "via", "10.3.0.1", "table", "100")
    HOST.ip("route", "add", "blackhole", "default", "metric", "9999")
    assert route.default_links(Socket()) == links_of("up1", "up2", "up3")


def test_default_with_two_next_hops(uplinks: None) -> None:
    """A default route over several links counts as one over its first."""
    hops = ["nexthop", "via", "10.2.0.1", "nexthop", "via", "10.1.0.1"]
    HOST.ip("route", "add", "default", *hops)
    assert route.default_links(Socket()) == links_of("up2")


def test_local_addresses(uplinks: None) -> None:
    """Those of every link and of no network, broadcast or multicast group."""
    HOST.ip("link", "set", "lo", "up")
    found = {format_ip(ip) for ip in route.local_addresses(Socket(), AF_INET)}
    assert found == {"127.0.0.1", "10.1.0.2", "10.2.0.2", "10.3.0.2"}
    found = {format_ip(ip) for ip in route.local_addresses(Socket(), AF_INET6)}
    assert {ip for ip in found if not ip.startswith("fe80:")} == {
        "::1",
        "fd00:1::2",
        "fd00:2::2",
        "fd00:3::2",
    }
