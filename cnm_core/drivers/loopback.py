"""The loopback interface, which every sandbox has and the kernel leaves down."""

from cnm_core.inet import Address, parse_address
from cnm_core.kernel import address, link
from cnm_core.kernel.netlink import Socket
from cnm_core.kernel.netns import Netns
from cnm_core.model import Attachment, Drift, Interface, Lease


class Loopback:
    """The `lo` of one sandbox at a time."""

    def join(self, netns: Netns) -> Attachment:
        """Set `lo` up; the kernel gives it 127.0.0.1/8, and ::1/128 where it has IPv6."""
        with netns:
            inside = Socket()
            found = link.parse(inside.request(link.get("lo"))[0])
            inside.request(link.set_up(found.index, "lo"))
            present = address.list_of(inside, found.index)
            inside.close()
        leases = tuple(Lease(each.address) for each in present if each.address in _LOOPBACK)
        return Attachment(
            interfaces=(Interface("lo", "00:00:00:00:00:00", found.mtu, netns.path),),
            leases=leases,
            lease_interfaces=(0,) * len(leases),
        )

    def leave(self, netns: Netns) -> None:
        """Set `lo` down again."""
        with netns:
            inside = Socket()
            found = link.parse(inside.request(link.get("lo"))[0])
            inside.request(link.set_down(found.index, "lo"))
            inside.close()

    def drift(self, netns: Netns) -> list[Drift]:
        """Whether `lo` is up."""
        with netns:
            inside = Socket()
            found = link.parse(inside.request(link.get("lo"))[0])
            inside.close()
        return [] if found.up else [Drift("loopback interface lo", "up", "down")]


_LOOPBACK: tuple[Address, ...] = (parse_address("127.0.0.1/8"), parse_address("::1/128"))
