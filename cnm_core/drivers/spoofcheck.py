"""Frames from bridge ports with foreign source MAC addresses are dropped (macspoofchk).

One table of ours, ``bridge cnm``, with two sets whatever the number of ports: those that
are checked, and which source each may use.
"""

from errno import ENOENT

from cnm_core.errors import KernelRefused
from cnm_core.inet import format_mac
from cnm_core.kernel import expressions as ex
from cnm_core.kernel import nftables as nft
from cnm_core.kernel.netlink import Request
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
        nft.commit(self._socket, _elements(nft.add_elements, port, mac, owner))

    def prepare(self) -> bool:
        """Have the table; True where there was none, or one without its rule."""
        if self._rules():
            return False
        nft.commit(self._socket, _base())
        return True

    def withdraw(self, port: str, mac: bytes) -> None:
        """Forget a port; it may be forgotten already."""
        deletions = _elements(nft.delete_elements, port, mac, "")
        if not self._forget(deletions):
            for each in deletions:  # somebody removed one of the two
                self._forget([each])

    def _forget(self, deletions: list[Request]) -> bool:
        """Delete elements together; False, and nothing done, where one of them is not there."""
        try:
            nft.commit(self._socket, deletions)
        except KernelRefused as error:
            if error.errno == ENOENT:
                return False
            raise
        return True

    def collect(self, network: str, known: "Callable[[], Collection[EndpointKey]]") -> None:
        """Forget the ports of the network whose owner is not known any more."""
        found = self._elements_of(network)
        owners = {ex.comment(f"{network} {key}") for key in known()}
        for name, element in found:
            if element.comment not in owners:
                self._forget([nft.delete_elements("bridge", TABLE, name, [element])])

    def disown(self, network: str, key: "EndpointKey") -> None:
        """Forget the port of an endpoint of which the record says nothing."""
        owner = f"{network} {key}"  # a comment that was cut off may be another's, too
        for name, element in self._elements_of(network):
            if element.comment == owner:
                self._forget([nft.delete_elements("bridge", TABLE, name, [element])])

    def _elements_of(self, network: str) -> list[tuple[str, Element]]:
        return [
            (name, element)
            for name in ("sources", "checked")
            for element in nft.elements(self._socket, "bridge", TABLE, name)
            if element.comment.startswith(f"{network} ")
        ]

    def drift(self, port: str, mac: bytes) -> list[Drift]:
        """Whether the port is checked, and may use the address."""
        key = ex.concatenate(ex.ifname(port), mac)
        checked = nft.find_element(self._socket, "bridge", TABLE, "checked", ex.ifname(port))
        allowed = nft.find_element(self._socket, "bridge", TABLE, "sources", key)
        found = []
        if not checked or not allowed:
            expected = f"{format_mac(mac)} only"
            found.append(Drift(f"source check of {port}", expected, "no such elements"))
        if self._rules() != 1:
            what = f"nftables chain prerouting of table bridge {TABLE}"
            found.append(Drift(what, "1 rule", f"{self._rules()} rules"))
        return found

    def _rules(self) -> int:
        uses = nft.chain_uses(self._socket, "bridge", TABLE, ["prerouting"])
        return uses.get("prerouting", 0)


def _elements(
    change: "Callable[[str, str, str, list[Element]], Request]", port: str, mac: bytes, owner: str
) -> list[Request]:
    name = ex.ifname(port)
    comment = ex.comment(owner)
    return [
        change("bridge", TABLE, "sources", [Element(ex.concatenate(name, mac), b"", comment)]),
        change("bridge", TABLE, "checked", [Element(name, b"", comment)]),
    ]


def _base() -> list[Request]:
    port, source = ex.registers(_KEY)
    foreign = [
        ex.meta("iifname", port),
        ex.lookup("checked", port),
        ex.payload("ether saddr", source),
        ex.lookup("sources", port, inverted=True),
        ex.verdict("drop"),
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
        nft.flush_chain("bridge", TABLE, "prerouting"),
        nft.add_rule("bridge", TABLE, "prerouting", foreign),
    ]
