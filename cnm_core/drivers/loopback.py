"""The loopback interface, which every sandbox has and the kernel leaves down."""

from cnm_core.inet import Address, parse_address
from cnm_core.kernel import address, link
from cnm_core.kernel.link import Link
from cnm_core.kernel.netns import Netns
from cnm_core.model import Attachment, Drift, Interface, Lease


class Loopback:
    """The `lo` of one sandbox at a time."""

    def join(self, netns: Netns) -> Attachment:
        """Set `lo` up; the kernel gives it 127.0.0.1/8, and ::1/128 where it has IPv6."""
        inside = netns.socket()
        found = _loopback(netns)
        inside.request(link.set_up(found.index, "lo"))
        present = address.list_of(inside, found.index)
        leases = tuple(Lease(each.address) for each in present if each.address in _LOOPBACK)
        return Attachment(
            interfaces=(Interface("lo", "00:00:00:00:00:00", found.mtu, netns.path),),
            leases=leases,
            lease_interfaces=(0,) * len(leases),
        )

    def leave(self, netns: Netns) -> None:
        """Set `lo` down again."""
        netns.socket().request(link.set_down(_loopback(netns).index, "lo"))

    def drift(self, netns: Netns) -> list[Drift]:
        """Whether `lo` is up."""
        return [] if _loopback(netns).up else [Drift("loopback interface lo", "up", "down")]


def _loopback(netns: Netns) -> Link:
    return link.parse(netns.socket().request(link.get("lo"))[0])


_LOOPBACK: tuple[Address, ...] = (parse_address("127.0.0.1/8"), parse_address("::1/128"))
