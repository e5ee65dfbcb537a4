"""Forgetting flows: those to a port of an address, and no others."""

import socket as sockets
import time

import pytest
from pyroute2 import NFCTSocket

from cnm_core.kernel import conntrack, nftables
from tests import cni
from tests.iproute import HOST, run

UDP, TCP = 17, 6
FLOWS = [
    ("127.0.0.1", 5353),
    ("127.0.0.1", 5354),
    ("127.0.0.2", 5353),
    ("::1", 5353),
    ("fd00::1", 5353),
    ("::1", 5354),
]


@pytest.fixture
def tracked(node: None) -> None:
    """A host that tracks connections, with flows to some ports of its own."""
    HOST.ip("addr", "add", "127.0.0.2/8", "dev", "lo")
    HOST.ip("addr", "add", "fd00::1/128", "dev", "lo", "nodad")
    run("nft", "add table inet t")
    run("nft", "add chain inet t c { type filter hook output priority 0; }")
    run("nft", "add rule inet t c ct state new accept")
    deadline = time.monotonic() + cni.PATIENCE
    while absent := set(FLOWS) - flows():  # an address may be in use a moment after it is added
        assert time.monotonic() < deadline, absent
        for address, port in absent:
            family = sockets.AF_INET6 if ":" in address else sockets.AF_INET
            with sockets.socket(family, sockets.SOCK_DGRAM) as near:
                near.sendto(b"?", (address, port))


def flows() -> set[tuple[str, int]]:
    """Address and port that each tracked UDP flow was sent to."""
    found = set()
    for family in (sockets.AF_INET, sockets.AF_INET6):
        with NFCTSocket(nfgen_family=family) as tracker:
            entries = list(tracker.dump())
        for entry in entries:
            of = entry.get_attr("CTA_TUPLE_ORIG")
            ips, proto = of.get_attr("CTA_TUPLE_IP"), of.get_attr("CTA_TUPLE_PROTO")
            address = ips.get_attr("CTA_IP_V4_DST") or ips.get_attr("CTA_IP_V6_DST")
            if proto.get_attr("CTA_PROTO_NUM") == UDP:
                found.add((address, proto.get_attr("CTA_PROTO_DST_PORT")))
    return found


def packed(address: str, port: int) -> tuple[bytes, int]:
    """An address as the kernel has it, with its port."""
    return sockets.inet_pton(sockets.AF_INET6 if ":" in address else sockets.AF_INET, address), port


def same_port(of: tuple[str, int]) -> set[tuple[str, int]]:
    """The flow, and of IPv6 whatever else nobody translates: the kernel cannot tell them apart."""
    address, port = of
    return (
        {each for each in FLOWS if ":" in each[0] and each[1] == port} if ":" in address else {of}
    )


@pytest.mark.parametrize("which", [[0], [3], [4], [1, 5], [0, 2, 4]], ids=str)
@pytest.mark.parametrize("filtered", [True, False], ids=["by filter", "one by one"])
def test_forget(tracked: None, which: list[int], filtered: bool) -> None:
    """By address and port both; with a filter in the kernel, and as those before 6.8 want it."""
    wanted = {FLOWS[index] for index in which}
    gone = {each for of in wanted for each in same_port(of)} if filtered else wanted
    forget = conntrack.forget if filtered else conntrack._forget_one_by_one
    assert flows() == set(FLOWS)
    socket = nftables.open_socket()
    forget(socket, UDP, conntrack.DESTINATION, {packed(*each) for each in wanted})
    assert flows() == set(FLOWS) - gone
    forget(socket, UDP, conntrack.DESTINATION, {packed(*each) for each in wanted})
    forget(socket, TCP, conntrack.DESTINATION, {packed(*each) for each in FLOWS})
    assert flows() == set(FLOWS) - gone
    socket.close()


def test_nothing_to_forget(node: None) -> None:
    """A host that tracks nothing."""
    socket = nftables.open_socket()
    conntrack.forget(socket, UDP, conntrack.DESTINATION, {packed(*FLOWS[0])})
    socket.close()
