"""Frames from bridge ports with foreign source MAC addresses are dropped (macspoofchk).

One table of ours, ``bridge cnm``, with two sets whatever the number of ports: those that
are checked, and which source each may use.
"""

from errno import ENOENT

from cnm_core.errors import KernelRefused
from cnm_core.inet import format_mac
from cnm_core.kernel import nftables as nft
from cnm_core.kernel.netlink import Request, text_of
from cnm_core.kernel.nftables import Element
from cnm_core.model import Drift

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from cnm_core.model import EndpointKey

TABLE = "cnm"
_KEY = "ifname . ether_addr"


class SpoofCheck:
    """The table, over one socket."""

    def __init__(self) -> None:
        self._socket = nft.open_socket()

    def allow(self, port: str, mac: bytes, owner: str) -> None:
        """Let a port send from this MAC address only."""
        requests = _elements(nft.add_elements, port, mac, owner)
        if not nft.chain_exists(self._socket, "bridge", TABLE, "prerouting"):
            requests = [*_base(), *requests]
        nft.commit(self._socket, requests)

    def withdraw(self, port: str, mac: bytes) -> None:
        """Forget a port; it may be forgotten already."""
        try:
            nft.commit(self._socket, _elements(nft.delete_elements, port, mac, ""))
        except KernelRefused as error:
            if error.errno != ENOENT:
                raise

    def collect(self, network: str, known: "Callable[[], Collection[EndpointKey]]") -> None:
        """Forget the ports of the network whose owner is not known any more."""
        found = [
            element
            for element in nft.elements(self._socket, "bridge", TABLE, "sources")
            if element.comment.startswith(f"{network} ")
        ]
        owners = {nft.comment(f"{network} {key}") for key in known()}
        for element in found:
            if element.comment not in owners:
                port, mac = nft.fields(element.key, _KEY)
                self.withdraw(text_of(port), mac)

    def drift(self, port: str, mac: bytes) -> list[Drift]:
        """Whether the port is checked, and may use the address."""
        key = nft.concatenate(nft.ifname(port), mac)
        checked = nft.find_element(self._socket, "bridge", TABLE, "checked", nft.ifname(port))
        allowed = nft.find_element(self._socket, "bridge", TABLE, "sources", key)
        if checked and allowed:
            return []
        return [Drift(f"source check of {port}", f"{format_mac(mac)} only", "no such elements")]


def _elements(
    change: "Callable[[str, str, str, list[Element]], Request]", port: str, mac: bytes, owner: str
) -> list[Request]:
    name = nft.ifname(port)
    comment = nft.comment(owner)
    return [
        change("bridge", TABLE, "sources", [Element(nft.concatenate(name, mac), b"", comment)]),
        change("bridge", TABLE, "checked", [Element(name, b"", comment)]),
    ]


def _base() -> list[Request]:
    port, source = nft.registers(_KEY)
    foreign = [
        nft.meta("iifname", port),
        nft.lookup("checked", port),
        nft.payload("ether saddr", source),
        nft.lookup("sources", port, inverted=True),
        nft.verdict("drop"),
    ]
    return [
        nft.add_table("bridge", TABLE),
        nft.add_set("bridge", TABLE, "checked", "ifname"),
        nft.add_set("bridge", TABLE, "sources", _KEY),
        nft.add_base_chain(
            "bridge",
            TABLE,
            "prerouting",
            kind="filter",
            hook="prerouting",
            priority=nft.RAW,
            policy="accept",
        ),
        nft.add_rule("bridge", TABLE, "prerouting", foreign),
    ]
