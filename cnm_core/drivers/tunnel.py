"""The way between hosts that networks encrypted by WireGuard take: one device a host.

Beyond the link itself (tunnel_link.py) it is a key of this host, and a peer for each other one.
"""

from errno import EADDRINUSE, EEXIST, ENOENT

from cnm_core.config.overlay import OverlayConfig
from cnm_core.drivers import tunnel_link
from cnm_core.drivers.overlay import TUNNEL
from cnm_core.errors import Error, InvalidNetworkConfig, KernelRefused, NotAvailable
from cnm_core.inet import format_ip
from cnm_core.kernel import link, vxlan, wireguard
from cnm_core.kernel.link import Link
from cnm_core.kernel.netlink import Socket
from cnm_core.kernel.wireguard import Device, Peer, Wireguard
from cnm_core.model import Drift
from cnm_core.store import tunnels
from cnm_core.store.cluster import Outdated
from cnm_core.store.entries import Member
from cnm_core.store.membership import Membership
from cnm_core.store.tunnels import End, PrivateKey, encode_key, tunnel_ip


class Tunnel:
    """This host's end, and its peers: the other hosts."""

    def __init__(self, host: Socket, options: OverlayConfig, membership: Membership) -> None:
        self._host = host
        self._port = options.wireguard_port
        self._membership = membership
        self._key = PrivateKey(options.data_dir)
        self._opened: Wireguard | None = None
        self._given: set[Peer] = set()

    def require(self) -> None:
        """Raise NotAvailable unless the kernel can encrypt."""
        try:
            self._wireguard()
        except KernelRefused as error:
            if error.errno != ENOENT:
                raise
            raise NotAvailable(
                "encrypted: this host's kernel has no WireGuard, and nothing goes out unencrypted",
                details="load the module wireguard (Linux 5.6 has it), or leave this host out "
                "of encrypted networks",
            ) from None
        tunnel_link.require_ipv6()

    def ensure(self, member: Member) -> bool:
        """Have the device, with its key and address; whether `reconcile` is to follow."""
        found = link.find(self._host, TUNNEL)
        made = found is None
        if found is None:
            found = self._make_link(member)
        device = self._device()
        if device is None:
            raise InvalidNetworkConfig(
                f'encrypted: link "{TUNNEL}" of this host is a {found.kind or "link"} of '
                "somebody else, no WireGuard device",
                details=f"rename that link: overlay networks have {TUNNEL} as theirs",
            )
        key = self._key.read()
        if device.private_key != _clamped(key) or device.port != self._port:
            self._wireguard().set_key(TUNNEL, key, self._port)
            made = True
        tunnel_link.ensure_address(self._host, found, tunnel_ip(member.vtep))
        if not found.up:
            self._set_up(found)
        return made

    def reconcile(self, member: Member | None = None) -> tuple[int, int]:
        """Make this host's end known, and the peers those of the store: how many came and went.

        One that was given already may have been heard from elsewhere since: there it is left.
        Without a member the cluster is asked for it. Raises Unreachable, and NotAvailable where
        the host is no member any more.
        """
        if link.find(self._host, TUNNEL) is None:
            return 0, 0  # there is no such network on this host
        member = member or tunnel_link.own_member(self._membership)
        known = {each.node: each for each in tunnels.ends(self._membership.cluster)}
        # After the store, or what was rotated in between would be the former key there again.
        device = self._device()
        if device is None or not device.public_key:
            return 0, 0  # it has gone, or is being made
        own = _end(member, device)
        if known.pop(member.node, None) != own:
            self._publish(own, member)
        wanted = {Peer(each.key, each.endpoint, each.port, each.ip) for each in known.values()}
        present = {(each.key, each.ip) for each in device.peers}
        left = {each for each in wanted & self._given if (each.key, each.ip) in present}
        fresh = wanted - set(device.peers) - left
        stale = {each.key for each in device.peers} - {each.key for each in wanted}
        if fresh or stale:
            self._wireguard().set_peers(TUNNEL, fresh, stale)
        self._given = wanted
        return len(fresh), len(stale)

    def rotate(self) -> bytes:
        """Have another key, and tell the other hosts; the public key, b"" without a device.

        Where they cannot be told, everything is as it was. The device has the key right before
        the others hear of it: each turns to us then, which is what begins the new sessions.
        """
        with self._key.lock():
            device = self._device()
            if device is None:
                self._key.forget()
                return b""
            member = tunnel_link.own_member(self._membership)
            old = self._key.present()
            new = self._key.write(tunnels.new_key())
            try:
                return self._set_key(new, device.port, member)
            except BaseException:
                self._key.write(old)
                self._restore(old)
                raise

    def drift(self, member: Member) -> list[Drift]:
        """How device and peers differ from what they should be."""
        what = f"WireGuard device {TUNNEL}"
        found, device = link.find(self._host, TUNNEL), self._device()
        if found is None or device is None:
            return [Drift(what, f"port {self._port}", found.kind if found else "no such link")]
        drift = [] if found.up else [Drift(what, "up", "down")]
        key = self._key.present()
        if not key or device.private_key != _clamped(key):
            drift.append(Drift(what, f"the key in {self._key.path}", "another key"))
        if device.port != self._port:
            drift.append(Drift(what, f"port {self._port}", f"port {device.port}"))
        ip = tunnel_ip(member.vtep)
        if not tunnel_link.has_address(self._host, found, ip):
            drift.append(Drift(what, f"address {format_ip(ip)}", "no such address"))
        return drift + self._peer_drift(member, device)

    def remove_unless_used(self) -> None:
        """Delete the device where no VXLAN device is bound to it any more."""
        tunnel_link.delete_unless_used(self._host, TUNNEL)

    def _set_key(self, key: bytes, port: int, member: Member) -> bytes:
        self._wireguard().set_key(TUNNEL, key, port)
        device = self._device()
        if device is None:
            return b""
        self._publish(_end(member, device), member)
        return device.public_key

    def _publish(self, own: End, member: Member) -> None:
        try:
            tunnels.publish(self._membership.cluster, own, member)
        except Outdated:
            raise tunnel_link.no_member(member.node) from None

    def _peer_drift(self, member: Member, device: Device) -> list[Drift]:
        """Where a peer was heard from last does not count: it may have several addresses."""
        known = tunnels.ends(self._membership.cluster)
        wanted = {(each.key, each.ip) for each in known if each.node != member.node}
        present = {(each.key, each.ip) for each in device.peers}
        what = f"peers of {TUNNEL}"
        drift = [Drift(what, _describe(*each), "no such peer") for each in wanted - present]
        return drift + [Drift(what, "none", _describe(*each)) for each in present - wanted]

    def _make_link(self, member: Member) -> Link:
        version = 4 if len(member.vtep) == 4 else 6
        mtu = member.mtu + vxlan.OVERHEAD[version] - wireguard.OVERHEAD[version]
        try:
            self._host.request(wireguard.create(TUNNEL, mtu))
        except KernelRefused as error:
            if error.errno != EEXIST:
                raise
        return link.parse(self._host.request(link.get(TUNNEL))[0])

    def _set_up(self, device: Link) -> None:
        try:
            self._host.request(link.set_up(device.index, TUNNEL))
        except KernelRefused as error:
            if error.errno != EADDRINUSE:
                raise
            link.delete_if_present(self._host, TUNNEL)
            raise InvalidNetworkConfig(
                f"wireguardPort: {self._port} is another one's UDP port on this host",
                details="choose another one; hosts may have different ones",
            ) from None

    def _restore(self, key: bytes) -> None:
        try:
            device = self._device()
            if key and device is not None:
                self._wireguard().set_key(TUNNEL, key, device.port)
        except Error:
            pass  # the failure that is being undone says more; the next ADD sets the key

    def _device(self) -> Device | None:
        # The kernel may have no WireGuard; to ask for it would load the module.
        return self._wireguard().device_of(TUNNEL) if link.find(self._host, TUNNEL) else None

    def _wireguard(self) -> Wireguard:
        self._opened = self._opened or Wireguard()
        return self._opened


def _end(member: Member, device: Device) -> End:
    return End(member.node, device.public_key, member.vtep, device.port)


def _describe(key: bytes, ip: bytes) -> str:
    return f"{encode_key(key)} with {format_ip(ip) if ip else 'no address'}"


def _clamped(key: bytes) -> bytes:
    """A private key as the kernel has it (curve25519_clamp_secret, RFC 7748 section 5)."""
    return bytes((key[0] & 248, *key[1:31], key[31] & 127 | 64))
