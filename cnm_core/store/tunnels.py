"""The tunnels between hosts that encrypted networks have their frames go through.

Each host has one WireGuard device. Its private key is in a file that only root reads, and
leaves the host never; the public key is in the store, below ``tunnels/<node>`` with the
address and the port where others reach it. Whoever can write there decides whom a host
believes, as with everything in the store.
"""

from binascii import a2b_base64, b2a_base64
from posix import urandom

from cnm_core import json
from cnm_core.inet import format_ip, parse_ip
from cnm_core.record import Record
from cnm_core.store import files
from cnm_core.store.cluster import Cluster
from cnm_core.store.entries import Member, decoded
from cnm_core.store.shared import Put

PREFIX = "tunnels/"
_KEY_BYTES = 32
_LINK_LOCAL = bytes.fromhex("fe80000000000000")


class End(Record):
    """A host's end: its public key, and where it is on the underlay."""

    node: str
    key: bytes
    endpoint: bytes
    port: int

    @property
    def ip(self) -> bytes:
        """Its address within the tunnel."""
        return tunnel_ip(self.endpoint)


def tunnel_ip(vtep: bytes) -> bytes:
    """The address that VXLAN uses within the tunnel, from a host's address on the underlay.

    It is link-local, which has the kernel see to it that nothing goes past the tunnel. Such
    a VXLAN device must name its link, takes packets from no other (vxlan_vs_find_vni), and
    goes when that goes; a packet to such an address leaves by its link or not at all
    (rt6_need_strict).

    Of IPv4 it has the whole address. Of IPv6 it has the interface identifier, mixed with the
    subnet's bits turned round: hosts that are numbered in each subnet anew stay apart.
    """
    if len(vtep) == 4:
        return _LINK_LOCAL + bytes(4) + vtep
    mixed = (a ^ b for a, b in zip(reversed(vtep[:8]), vtep[8:], strict=True))
    return _LINK_LOCAL + bytes(mixed)


def ends(cluster: Cluster) -> list[End]:
    """The ends of all hosts that have one. Raises Unreachable."""
    return list(cluster.read_all(PREFIX, lambda entry: decoded(entry, _end)))


def publish(cluster: Cluster, end: End, member: Member) -> None:
    """Make a host's own end known. Raises Outdated where it is no member any more."""
    value = {
        "key": encode_key(end.key),
        "endpoint": format_ip(end.endpoint),
        "port": end.port,
    }
    cluster.claim(member, (), (Put(PREFIX + end.node, json.dumps(value)),))


class PrivateKey:
    """This host's private key, as `wg genkey` writes one, in its data directory."""

    def __init__(self, data_dir: str) -> None:
        self._directory = f"{data_dir}/.cnm"
        self.path = f"{self._directory}/.wireguard.key"

    def read(self) -> bytes:
        """The key, made where there is none, or half of one."""
        with self.lock():
            return self.present() or self.write(new_key())

    def write(self, key: bytes) -> bytes:
        """Have the file hold this key, which is also the answer."""
        files.replace(self.path, encode_key(key) + "\n")
        return key

    def forget(self) -> None:
        """Have no key: the next one is another."""
        files.remove(self.path)

    def lock(self) -> files.Lock:
        """For whoever changes the key."""
        files.make_directories(self._directory)
        return files.Lock(f"{self._directory}/.wireguard.lock")

    def present(self) -> bytes:
        """The key, b"" where there is none, or half of one."""
        try:
            return decode_key((files.read_text(self.path) or "").strip())
        except ValueError:
            return b""


def new_key() -> bytes:
    """A private key; the kernel clears and sets the bits that X25519 wants so."""
    return urandom(_KEY_BYTES)


def encode_key(key: bytes) -> str:
    """A key as WireGuard's tools write it."""
    return b2a_base64(key, newline=False).decode()


def decode_key(text: str) -> bytes:
    """The key that a text means. Raises ValueError, without the text."""
    try:
        key = a2b_base64(text, strict_mode=True)
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise ValueError("not a key of 32 bytes in base64")
    return key


def _end(key: str, fields: dict[str, object]) -> End:
    port = fields["port"]
    if type(port) is not int or not 0 < port < 65536:
        raise ValueError(f"not a port: {json.shorten(port)}")
    return End(
        key.rpartition("/")[2],
        decode_key(str(fields["key"])),
        parse_ip(str(fields["endpoint"])),
        port,
    )
