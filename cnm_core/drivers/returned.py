"""What becomes of the endpoints of a host that comes back after it was fenced, or by another VTEP.

The cluster has forgotten them, and may have given their addresses to others. Those whose
addresses are still free are made known again. Whoever has an address by now keeps it: the
endpoint that had it is cut off, by setting its host end down, until it is removed or the
address is free again. Safe to repeat: what is to be done follows from records and store.
"""

from cnm_core.drivers.overlay import port_settings
from cnm_core.errors import Damaged
from cnm_core.inet import format_ip
from cnm_core.kernel import link
from cnm_core.kernel.netlink import Socket
from cnm_core.model import Endpoint, EndpointKey
from cnm_core.record import Record
from cnm_core.store.endpoints import EndpointStore
from cnm_core.store.entries import Published, mac_of
from cnm_core.store.membership import Membership, View

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection


class CutOff(Record):
    """An endpoint of this host whose address is another's, as ``<node>/<key>``."""

    key: EndpointKey
    ip: bytes
    holder: str

    def __str__(self) -> str:
        return f"{self.key} is cut off: {format_ip(self.ip)} is {self.holder}'s by now"


class Again(Record):
    """Which endpoints have been made known again, and which could not be."""

    known: tuple[EndpointKey, ...] = ()
    cut_off: tuple[CutOff, ...] = ()


def republish(
    socket: Socket, membership: Membership, view: View, known: "Collection[Published]"
) -> Again:
    """Make known all endpoints of a network that this host has a record of, but the known ones.

    Of those what is known of their VTEP is corrected, where this host has another by now.
    Raises Outdated where this host was fenced, or the network removed, once more.
    """
    again: list[EndpointKey] = []
    cut_off: list[CutOff] = []
    name = view.network.name
    records = EndpointStore(membership.state_dir)
    moved = {each.key: each.vtep != view.vtep for each in known if each.node == membership.node}
    for key in records.keys(name):
        if moved.get(key):
            membership.cluster.relocate(name, key, view.member, view.vtep)
            again.append(key)
        endpoint = None if key in moved else _load(records, name, key)
        host_end = link.find(socket, endpoint.host_link) if endpoint else None
        if endpoint is None or host_end is None:
            continue  # on its way in or out
        published = _published(endpoint, membership.node, view)
        taken = membership.cluster.publish(published, view.member, view.network, ())
        if taken is not None:
            if host_end.up:
                socket.request(link.set_down(host_end.index, host_end.name))
            cut_off.append(CutOff(key, taken, membership.cluster.holder(name, taken)))
            continue
        if not host_end.up:
            # Its MAC address was whoever's who had the address meanwhile.
            settings = port_settings(host_end, published.mac)
            socket.request(*settings, link.set_up(host_end.index, host_end.name))
        again.append(key)
        # DEL deletes the link before the claims: if it is there, so is all of DEL to come.
        if link.find(socket, endpoint.host_link) is None:
            membership.cluster.withdraw(name, membership.node, key)
    return Again(tuple(again), tuple(cut_off))


def _load(records: EndpointStore, network: str, key: EndpointKey) -> Endpoint | None:
    try:
        found = records.load(network, key)
    except Damaged:
        return None  # damaged: what it had nobody can tell
    return found if found is not None and found.host_link else None


def _published(endpoint: Endpoint, node: str, view: View) -> Published:
    ips = tuple(lease.address.ip for lease in endpoint.addressing.leases)
    mac = endpoint.mac or mac_of(ips)
    return Published(endpoint.network, node, endpoint.key, ips, mac, view.vtep)
