"""What the hosts know of each other for networks that are encrypted by ESP.

Each host has a pair of X25519 keys: the private one in a file that only root reads, the public
one in the store, below ``tunnels-esp/<node>`` with the address where the host is reached. Out of
their keys two hosts make those of both directions between them, without another word.

AES-GCM is broken by a second packet with the same key and number (RFC 4106, section 2), and
numbers begin anew with every security association. So one is made once only from a pair of keys:
the file has the public keys of those with whom that was done, and whoever would do it again draws
another key first. An association is in one kernel's memory, so another boot is another key, too.
"""

from posix import urandom
from time import CLOCK_BOOTTIME, clock_gettime

from cnm_core import json
from cnm_core.inet import format_ip, parse_ip
from cnm_core.key_agreement import (
    KEY_BYTES,
    derive,
    digest,
    gives_secret,
    public_key,
    shared_secret,
)
from cnm_core.record import Record
from cnm_core.store import files
from cnm_core.store.cluster import Cluster
from cnm_core.store.entries import Member, decoded
from cnm_core.store.shared import Put
from cnm_core.store.tunnels import decode_key, encode_key, tunnel_ip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX = "tunnels-esp/"
_PURPOSE = b"cnm esp rfc4106(gcm(aes)) "
_LEAST_SPI = 256  # those below are reserved (RFC 4303, section 2.1)


class End(Record):
    """A host's end: its public key, and where it is on the underlay."""

    node: str
    key: bytes
    endpoint: bytes

    @property
    def ip(self) -> bytes:
        """Its address within the tunnel."""
        return tunnel_ip(self.endpoint)


class OwnKey(Record):
    """This host's key: when it was drawn, in seconds since the boot, and with whose public keys
    associations were made.
    """

    private: bytes
    public: bytes
    drawn: int
    used: frozenset[bytes] = frozenset()

    def __repr__(self) -> str:
        return f"OwnKey({encode_key(self.public)})"  # a private key is not for logs

    @property
    def age(self) -> int:
        """How many seconds ago it was drawn."""
        return _now() - self.drawn


def ends(cluster: Cluster) -> list[End]:
    """The ends of all hosts that have one. Raises Unreachable."""
    return list(cluster.read_all(PREFIX, lambda entry: decoded(entry, _end)))


def publish(cluster: Cluster, end: End, member: Member) -> None:
    """Make a host's own end known. Raises Outdated where it is no member any more."""
    value = {"key": encode_key(end.key), "endpoint": format_ip(end.endpoint)}
    cluster.claim(member, (), (Put(PREFIX + end.node, json.dumps(value)),))


def spi_between(sender: bytes, receiver: bytes) -> int:
    """What a packet is marked with, from the public keys of two hosts."""
    number = int.from_bytes(digest(b"cnm esp spi " + sender + receiver)[:4], "big")
    return _LEAST_SPI + number % ((1 << 32) - _LEAST_SPI)


def keys_between(own: OwnKey, peer: bytes, size: int) -> tuple[bytes, bytes]:
    """The keys for what goes out to a peer and what comes in from it."""
    secret = shared_secret(own.private, peer)
    out = derive(secret, _PURPOSE + own.public + peer, size)
    return out, derive(secret, _PURPOSE + peer + own.public, size)


class KeyFile:
    """The file with this host's key, in its data directory.

    `boot` is what is different after each reboot.
    """

    def __init__(self, data_dir: str, boot: "Callable[[], str]") -> None:
        self._boot = boot
        self._directory = f"{data_dir}/.cnm"
        self.path = f"{self._directory}/.esp.key"

    def lock(self) -> files.Lock:
        """For whoever makes associations, or draws another key."""
        files.make_directories(self._directory)
        return files.Lock(f"{self._directory}/.esp.lock")

    def present(self) -> OwnKey | None:
        """The key; None where there is none, half of one, or one of another boot."""
        boot, _, rest = (files.read_text(self.path, 1 << 24) or "").partition("\n")
        words = rest.split()
        try:
            if boot != self._boot() or words.pop() != "end":
                return None
            drawn, private, public, *used = words
            return OwnKey(
                decode_key(private),
                decode_key(public),
                int(drawn),
                frozenset(map(decode_key, used)),
            )
        except (ValueError, IndexError):
            return None

    def write(self, key: OwnKey) -> OwnKey:
        """Have the file hold this key, which is also the answer."""
        lines = [self._boot(), str(key.drawn), encode_key(key.private), encode_key(key.public)]
        lines += [*sorted(map(encode_key, key.used)), "end"]
        files.replace(self.path, "".join(f"{line}\n" for line in lines))
        return key

    def forget(self) -> None:
        """Have no key: the next one is another."""
        files.remove(self.path)

    def draw(self) -> OwnKey:
        """Have the file hold another key, that no association was made with yet."""
        private = urandom(KEY_BYTES)
        return self.write(OwnKey(private, public_key(private), _now()))


def _now() -> int:
    return int(clock_gettime(CLOCK_BOOTTIME))


def _end(key: str, fields: dict[str, object]) -> End:
    public = decode_key(str(fields["key"]))
    if not gives_secret(public):
        raise ValueError("a key that gives no secret")
    return End(key.rpartition("/")[2], public, parse_ip(str(fields["endpoint"])))
