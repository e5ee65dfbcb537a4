"""The way between hosts that networks encrypted by ESP take: one XFRM interface a host.

Beyond the link itself (tunnel_link.py) it is, for each other host, two security associations and
two policies. They follow from this host's pair of keys and the other's public one
(cnm_core/store/tunnels_esp.py): whoever has another key, or needs associations that were there
once, makes all of them anew, and the other hosts do when they see the new public key.

While hosts turn to another key nothing is lost. A host takes packets by its new one before it
tells of it; it sends by its former one until the other has sent something by the new one, or for
five seconds; and it takes packets by its former one for fifteen.
"""

from errno import EEXIST
from time import CLOCK_REALTIME, clock_gettime, sleep

from cnm_core.config.overlay import OverlayConfig
from cnm_core.drivers import tunnel_link
from cnm_core.drivers.overlay import TUNNEL_ESP
from cnm_core.errors import InvalidNetworkConfig, KernelRefused, NotAvailable, TryAgainLater
from cnm_core.inet import format_ip
from cnm_core.kernel import link, sysctl, underlay, vxlan, xfrm
from cnm_core.kernel.link import Link
from cnm_core.kernel.netlink import Socket
from cnm_core.kernel.xfrm import IN, OUT, Association, Found, Policy, Xfrm
from cnm_core.model import Drift
from cnm_core.record import Record
from cnm_core.store import tunnels_esp
from cnm_core.store.cluster import Outdated
from cnm_core.store.entries import Member
from cnm_core.store.membership import Membership
from cnm_core.store.shared import Unreachable
from cnm_core.store.tunnels import tunnel_ip
from cnm_core.store.tunnels_esp import End, KeyFile, OwnKey, keys_between, spi_between

# Of our XFRM interface, associations and policies: "cnm".
IF_ID = 0x636E6D
_TURN_SECONDS, _LATE_SECONDS = 5, 15
_POLL_SECONDS = 0.1
_ATTEMPTS = 10

TYPE_CHECKING = False
if TYPE_CHECKING:
    Identity = tuple[bytes, bytes, int]  # source, destination, SPI


class Pair(Record):
    """What another host and this one have between them."""

    peer: End
    own: End
    spi_out: int
    spi_in: int

    @property
    def out(self) -> "Identity":
        """What tells the association to the peer from all others."""
        return self.own.endpoint, self.peer.endpoint, self.spi_out

    @property
    def into(self) -> "Identity":
        """That of the association from the peer."""
        return self.peer.endpoint, self.own.endpoint, self.spi_in

    def policies(self, spi: int) -> tuple[Policy, Policy]:
        """What comes in from the peer is encrypted, and what goes out is, by an association."""
        own, peer = self.own, self.peer
        return (
            Policy(IN, peer.ip, own.ip, peer.endpoint, own.endpoint),
            Policy(OUT, own.ip, peer.ip, own.endpoint, peer.endpoint, spi),
        )


class EspTunnel:
    """This host's end, and the other hosts. `settled` is False while it sends to one of them by
    a former key: `reconcile` has more to do soon.
    """

    def __init__(self, host: Socket, options: OverlayConfig, membership: Membership) -> None:
        self.settled = True
        self._known: tuple[Member, End | None, list[End]] | None = None
        self._host = host
        self._underlay = options.underlay
        self._membership = membership
        self._file = KeyFile(options.data_dir, sysctl.boot_id)
        self._opened: Xfrm | None = None

    def require(self) -> None:
        """Raise NotAvailable unless the kernel can encrypt."""
        try:
            if not xfrm.has_interfaces(self._host, TUNNEL_ESP):
                raise NotAvailable(
                    "encrypted: this host's kernel has no XFRM interfaces, and nothing goes out "
                    "unencrypted",
                    details="load the module xfrm_interface, or leave this host out of networks "
                    "that are encrypted by ESP",
                )
            self._xfrm().try_out(underlay.find(self._host, self._underlay).ip)
        except KernelRefused as error:
            raise NotAvailable(
                "encrypted: this host's kernel has no ESP with AES-GCM, and nothing goes out "
                f"unencrypted: {error.msg}",
                details="load the modules xfrm_user, esp4 or esp6, and gcm, or leave this host "
                "out of networks that are encrypted by ESP",
            ) from None
        tunnel_link.require_ipv6()

    def ensure(self, member: Member) -> bool:
        """Have the interface with its address; whether `reconcile` is to follow."""
        found = link.find(self._host, TUNNEL_ESP)
        made = found is None
        if found is None:
            found = self._make_link(member)
        if xfrm.number_of(found) != IF_ID:
            raise InvalidNetworkConfig(
                f'encrypted: link "{TUNNEL_ESP}" of this host is a {found.kind or "link"} of '
                f"somebody else, no XFRM interface of number {IF_ID:#x}",
                details=f"rename that link: overlay networks have {TUNNEL_ESP} as theirs",
            )
        tunnel_link.ensure_address(self._host, found, tunnel_ip(member.vtep))
        if not found.up:
            # The kernel's own address, drawn at random, would be of no use (addrconf_dev_config).
            sysctl.set_to("1", "net", "ipv6", "conf", TUNNEL_ESP, "addr_gen_mode")
            self._host.request(link.set_up(found.index, TUNNEL_ESP))
        return made

    def reconcile(self, member: Member | None = None) -> tuple[int, int]:
        """Make this host's end known, and have what the store's make: how many came and went.

        Without a member the cluster is asked for it. Raises Unreachable, and NotAvailable where
        the host is no member any more.
        """
        if link.find(self._host, TUNNEL_ESP) is None:
            self.settled = True
            return 0, 0  # there is no such network on this host
        with self._file.lock():
            try:
                self._look(member)
            except Unreachable:
                if self.settled:
                    raise
                # What it last said has to do: the others take packets by a former key for a while.
            try:
                return self._reconcile(self._file.present() or self._file.draw())
            finally:
                if link.find(self._host, TUNNEL_ESP) is None:  # the last container went meanwhile
                    self._xfrm().clear()

    def rotate(self) -> bytes:
        """Have another key, and tell the other hosts; the public key, b"" without an interface.

        Where they cannot be told, everything is as it was. Returns once all is sent by the new
        key, after five seconds at most.
        """
        with self._file.lock():
            if link.find(self._host, TUNNEL_ESP) is None:
                self._file.forget()
                return b""
            member = tunnel_link.own_member(self._membership)
            self._look(member)
            former = self._file.present()
            key = self._file.draw()
            try:
                self._reconcile(key)
                key = self._file.present() or key  # another one where an SPI was taken
            except BaseException:
                if former is not None:
                    self._file.write(former)
                raise
        while not self.settled:
            sleep(_POLL_SECONDS)
            self.reconcile(member)
        return key.public

    def drift(self, member: Member) -> list[Drift]:
        """How interface, associations and policies differ from what they should be."""
        what = f"XFRM interface {TUNNEL_ESP}"
        found = link.find(self._host, TUNNEL_ESP)
        if found is None or xfrm.number_of(found) != IF_ID:
            other = found.kind or "a link" if found else "no such link"
            return [Drift(what, f"number {IF_ID:#x}", other)]
        drift = [] if found.up else [Drift(what, "up", "down")]
        ip = tunnel_ip(member.vtep)
        if not tunnel_link.has_address(self._host, found, ip):
            drift.append(Drift(what, f"address {format_ip(ip)}", "no such address"))
        key = self._file.present()
        if key is None:
            return [*drift, Drift(what, f"a key in {self._file.path}", "no key")]
        return drift + self._drift_of_pairs(member, key)

    def remove_unless_used(self) -> None:
        """Delete the interface where no VXLAN device is bound to it any more, and all that is
        between this host and others.
        """
        if tunnel_link.delete_unless_used(self._host, TUNNEL_ESP):
            self._xfrm().clear()

    def _make_link(self, member: Member) -> Link:
        version = 4 if len(member.vtep) == 4 else 6
        space = member.mtu + vxlan.OVERHEAD[version] - xfrm.OVERHEAD[version] + 2
        mtu = space // xfrm.ALIGNMENT * xfrm.ALIGNMENT - 2
        try:
            self._host.request(xfrm.create(TUNNEL_ESP, mtu, IF_ID))
        except KernelRefused as error:
            if error.errno != EEXIST:
                raise
        found = link.find(self._host, TUNNEL_ESP)
        if found is None:
            raise InvalidNetworkConfig(
                f"encrypted: another XFRM interface of this host has number {IF_ID:#x}",
                details="give that one another if_id: this is that of overlay networks",
            )
        return found

    # --- what is between the hosts

    def _look(self, member: Member | None) -> None:
        """Have what the store says, of this host and of the others."""
        member = member or tunnel_link.own_member(self._membership)
        self._known = member, *self._ends(member)

    def _reconcile(self, key: OwnKey) -> tuple[int, int]:
        """What comes in first, then the store, and then what goes out."""
        assert self._known is not None
        member, published, peers = self._known
        if published is None and key.used:
            # The others have forgotten this host, and would have to draw another key each.
            key = self._file.draw()
        key, pairs, came = self._make_pairs(member, key, peers)
        own = End(member.node, key.public, member.vtep)
        if published != own:
            self._publish(own, member)
            self._known = member, own, peers
        found = self._found()
        present = self._xfrm().policies()
        sending = _sending(key, pairs, found, present)
        self.settled = all(pair.spi_out == spi for pair, spi in sending)
        wanted = {policy for pair, spi in sending for policy in pair.policies(spi)}
        self._xfrm().set_policies(wanted - present, _without_heir(present - wanted, wanted))
        used = {name for pair in pairs for name in (pair.out, pair.into)}
        used |= {(*pair.out[:2], spi) for pair, spi in sending}
        gone = self._let_go([each for name, each in found.items() if name not in used], pairs)
        return came, gone

    def _ends(self, member: Member) -> tuple[End | None, list[End]]:
        """This host's end as the store has it, and those of others that it can reach."""
        known = {each.node: each for each in tunnels_esp.ends(self._membership.cluster)}
        own = known.pop(member.node, None)
        return own, [each for each in known.values() if len(each.endpoint) == len(member.vtep)]

    def _found(self) -> "dict[Identity, Found]":
        return {_identity(each): each for each in self._xfrm().associations()}

    def _make_pairs(
        self, member: Member, key: OwnKey, peers: list[End]
    ) -> tuple[OwnKey, list[Pair], int]:
        """Have the associations of all pairs, by another key where one was made once before."""
        for _ in range(_ATTEMPTS):
            # One that is about to end is as good as gone.
            lasting = {name for name, each in self._found().items() if not each.ends}
            pairs = _pairs(member, key, peers)
            lacking = [each for each in pairs if not {each.out, each.into} <= lasting]
            if not lacking:
                return key, pairs, 0
            if any(each.peer.key in key.used for each in lacking):
                key = self._file.draw()
                continue
            fresh = self._associations(key, lacking)
            used = key.used | {each.peer.key for each in lacking}
            key = self._file.write(key.replace(used=used))
            try:
                self._xfrm().add(fresh)
            except KernelRefused as error:
                if error.errno != EEXIST:
                    raise
                continue  # an SPI is somebody else's: another key has others
            return key, pairs, len(lacking)
        raise TryAgainLater("security associations are deleted as fast as they are made")

    def _associations(self, key: OwnKey, pairs: list[Pair]) -> list[Association]:
        """Those of pairs: first what comes in."""
        into, out = [], []
        for each in pairs:
            key_out, key_in = keys_between(key, each.peer.key, xfrm.KEY_BYTES)
            own, peer = each.own.ip, each.peer.ip
            into.append(Association(*each.into, key_in, peer, own))
            out.append(Association(*each.out, key_out, own, peer))
        return into + out

    def _publish(self, own: End, member: Member) -> None:
        try:
            tunnels_esp.publish(self._membership.cluster, own, member)
        except Outdated:
            raise tunnel_link.no_member(member.node) from None

    def _let_go(self, unused: list[Found], pairs: list[Pair]) -> int:
        """Delete associations, but have those that a peer may be sending by go in a while."""
        late = {(each.into[0], each.into[1]) for each in pairs}
        going = [each for each in unused if (each.source, each.destination) in late]
        now = int(clock_gettime(CLOCK_REALTIME))
        self._xfrm().end([each for each in going if not each.ends], now + _LATE_SECONDS)
        gone = [each for each in unused if each not in going]
        self._xfrm().delete(gone)
        return len(gone)

    def _drift_of_pairs(self, member: Member, key: OwnKey) -> list[Drift]:
        published, peers = self._ends(member)
        drift = []
        if published != End(member.node, key.public, member.vtep):
            drift.append(Drift("key of this host", "known to the cluster", "another one is"))
        found = self._found()
        pairs = _pairs(member, key, peers)
        for pair in pairs:
            for way, name in (
                (f"to {pair.peer.node}", pair.out),
                (f"from {pair.peer.node}", pair.into),
            ):
                if name not in found:
                    what = f"security association {way}"
                    drift.append(Drift(what, f"SPI {name[2]:#x}", "no such association"))
        present = self._xfrm().policies()
        sending = _sending(key, pairs, found, present)
        wanted = {policy for pair, spi in sending for policy in pair.policies(spi)}
        drift += [Drift("IPsec policies", str(each), "no such policy") for each in wanted - present]
        drift += [Drift("IPsec policies", "none", str(each)) for each in present - wanted]
        return drift

    def _xfrm(self) -> Xfrm:
        self._opened = self._opened or Xfrm(IF_ID)
        return self._opened


def clear() -> None:
    """Delete what is between this host and others, after the interface has gone."""
    Xfrm(IF_ID).clear()


def _pairs(member: Member, key: OwnKey, peers: list[End]) -> list[Pair]:
    own = End(member.node, key.public, member.vtep)
    return [
        Pair(each, own, spi_between(own.key, each.key), spi_between(each.key, own.key))
        for each in peers
    ]


def _sending(
    key: OwnKey, pairs: list[Pair], found: "dict[Identity, Found]", present: set[Policy]
) -> list[tuple[Pair, int]]:
    """The SPIs to send by: where that is a former one, until the peer has used its new one."""
    turning = key.age < _TURN_SECONDS
    before = {each.inner_destination: each.spi for each in present if each.direction == OUT}
    sending = []
    for pair in pairs:
        former = before.get(pair.peer.ip, 0)
        into = found.get(pair.into)
        stays = turning and (*pair.out[:2], former) in found and not (into and into.packets)
        sending.append((pair, former if stays else pair.spi_out))
    return sending


def _identity(found: Found) -> "Identity":
    return found.source, found.destination, found.spi


def _without_heir(stale: set[Policy], wanted: set[Policy]) -> list[Policy]:
    """Those in whose place no other one is: to set that has replaced them."""
    heirs = {(each.direction, each.inner_source, each.inner_destination) for each in wanted}
    return [
        each
        for each in stale
        if (each.direction, each.inner_source, each.inner_destination) not in heirs
    ]
