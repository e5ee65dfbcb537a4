"""ESP: keys by published test vectors, messages, and that no key is ever used twice."""

from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from stat import S_IMODE
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnm_core import key_agreement
from cnm_core.cli import options, overlay_file
from cnm_core.config.overlay import overlay_config
from cnm_core.drivers import tunnel_esp
from cnm_core.drivers.tunnel_esp import EspTunnel
from cnm_core.errors import Error, KernelRefused
from cnm_core.inet import parse_ip, parse_subnet
from cnm_core.kernel import xfrm
from cnm_core.kernel.xfrm import IN, OUT, Association, Found, Policy
from cnm_core.schema.overlay import OverlayConfig
from cnm_core.store import tunnels_esp
from cnm_core.store.cluster import Cluster
from cnm_core.store.entries import Member, SharedNetwork, Subnet, decode_network, encode_network
from cnm_core.store.membership import Membership
from cnm_core.store.shared import Put
from cnm_core.store.shared_files import FileStore
from cnm_core.store.tunnels_esp import KeyFile, OwnKey, keys_between, spi_between

ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
P = 2**255 - 19

# --- keys


def test_x25519() -> None:
    """RFC 7748, section 6.1."""
    alice, bob = map(key_agreement.public_key, (ALICE, BOB))
    assert alice.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert bob.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    secret = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert key_agreement.shared_secret(ALICE, bob).hex() == secret
    assert key_agreement.shared_secret(BOB, alice).hex() == secret


def test_hkdf() -> None:
    """RFC 5869, appendix A.3: without salt and info."""
    derived = key_agreement.derive(b"\x0b" * 22, b"", 42).hex()
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    assert derived == expected + "9d201395faa4b61a96c8"


@pytest.mark.parametrize("point", sorted(key_agreement._LOW_ORDER))
def test_low_order(point: int) -> None:
    """A key that gives everybody's secret gives none, in whatever way it is written."""
    for number in (point, point + P, point + (1 << 255), point + P + (1 << 255)):
        if number >> 256 or number % (1 << 255) % P != point % P:
            continue  # there is no such way
        key = number.to_bytes(32, "little")
        assert not key_agreement.gives_secret(key)
        with pytest.raises(ValueError, match="no key of X25519"):
            key_agreement.shared_secret(ALICE, key)


def own(private: bytes) -> OwnKey:
    """A host's key, just drawn."""
    return OwnKey(private, key_agreement.public_key(private), 0)


def test_both_sides() -> None:
    """What goes out on one side comes in on the other; no two directions are alike."""
    alice, bob = own(ALICE), own(BOB)
    out, into = keys_between(alice, bob.public, xfrm.KEY_BYTES)
    assert keys_between(bob, alice.public, xfrm.KEY_BYTES) == (into, out)
    assert len(out) == len(into) == 20
    assert out[:16] != into[:16]
    assert spi_between(alice.public, bob.public) != spi_between(bob.public, alice.public)
    assert b64encode(ALICE).decode() not in repr(alice)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_spi(sender: bytes, receiver: bytes) -> None:
    """SPIs are those that are not reserved."""
    assert 256 <= spi_between(sender, receiver) < 1 << 32


# --- the file


def test_key_file(tmp_path: Path) -> None:
    """It is for root's eyes only, and good for one boot."""
    file = KeyFile(str(tmp_path / "lib"), lambda: "this boot")
    with file.lock():
        key = file.write(file.draw().replace(used=frozenset((ALICE, BOB))))
    assert file.present() == key
    assert {S_IMODE(each.stat().st_mode) for each in Path(file.path).parent.iterdir()} == {0o600}
    assert KeyFile(str(tmp_path / "lib"), lambda: "another boot").present() is None


def test_damaged_key_file(tmp_path: Path) -> None:
    """Part of a file is none: it would not know with whom the key was used."""
    file = KeyFile(str(tmp_path), lambda: "boot")
    with file.lock():
        file.write(file.draw().replace(used=frozenset((ALICE, BOB))))
    whole = Path(file.path).read_text()
    for length in range(len(whole) - 1):
        Path(file.path).write_text(whole[:length])
        assert file.present() is None, length


# --- the store


@pytest.mark.parametrize("encrypted", [False, True, "esp"])
def test_network(encrypted: bool | str) -> None:
    """What a network's value says is read again. Who knows of WireGuard alone reads that."""
    subnet = Subnet(parse_subnet("10.7.0.0/24"), parse_ip("10.7.0.1"))
    network = SharedNetwork("blue", 4097, 4789, 1376, False, (subnet,), encrypted=encrypted)
    value = encode_network(network)
    assert decode_network("blue", value, 0) == network
    assert ('"encrypted":true' in value.replace(" ", "")) == bool(encrypted)


@pytest.mark.parametrize(
    ("text", "value"), [("esp", "esp"), ("", True), ("true", True), ("false", False), ("x", "x")]
)
def test_option(text: str, value: bool | str) -> None:
    """`-o encrypted=esp` is the key's value, and `-o encrypted` that of a switch."""
    keys = options.keys_of("overlay", {"encrypted": text}, OverlayConfig)
    assert keys == {"encrypted": value}


def test_file_of_network() -> None:
    """The file that an agent writes says it too."""
    subnet = Subnet(parse_subnet("10.7.0.0/24"), parse_ip("10.7.0.1"))
    network = SharedNetwork("blue", 4097, 4789, 1376, False, (subnet,), encrypted="esp")
    shared = '{"cniVersion": "1.0.0", "cnm": {}}'
    document = overlay_file.document(network, shared, {"node": "one"})
    assert document["plugins"][0]["encrypted"] == "esp"


def test_unknown_encryption() -> None:
    """A network by something newer is none, rather than one by something else."""
    subnet = Subnet(parse_subnet("10.7.0.0/24"), parse_ip("10.7.0.1"))
    network = SharedNetwork("blue", 4097, 4789, 1376, False, (subnet,), encrypted="esp")
    value = encode_network(network).replace('"esp"', '"macsec"')
    with pytest.raises(Error, match=r'needs \["macsec"\], which this version of cnm does not know'):
        decode_network("blue", value, 0)


@pytest.mark.parametrize("overhead", [50, 70])
@pytest.mark.parametrize("underlay", range(1500, 1508))
def test_mtu(underlay: int, overhead: int) -> None:
    """The largest frame fills the underlay's MTU as far as ESP's filling lets it."""
    subnet = Subnet(parse_subnet("10.7.0.0/24"), parse_ip("10.7.0.1"))
    network = SharedNetwork("blue", 1, 4789, 0, False, (subnet,), encrypted="esp")
    before = {50: 20, 70: 40}[overhead] + 8 + 8  # IP, ESP, IV

    def size(mtu: int) -> int:
        within = 40 + 8 + 8 + 14 + mtu  # IPv6, UDP, VXLAN, Ethernet
        return before + (within + 2 + 3) // 4 * 4 + 16

    mtu = network.leaves(underlay - overhead)
    assert size(mtu) <= underlay < size(mtu + 1)


@pytest.mark.parametrize(
    "value",
    [
        "{}",
        '{"key": "x", "endpoint": "10.0.0.1"}',
        f'{{"key": "{b64encode(bytes(32)).decode()}", "endpoint": "10.0.0.1"}}',
        f'{{"key": "{b64encode(BOB).decode()}", "endpoint": "here"}}',
    ],
)
def test_malformed(tmp_path: Path, value: str) -> None:
    """An entry that makes no sense, or gives no secret, is passed over, and reported."""
    ignored: list[Error] = []
    cluster = Cluster(FileStore(str(tmp_path)), ignored.append)
    cluster.store.commit((), (Put("tunnels-esp/one", value),))
    assert tunnels_esp.ends(cluster) == []
    (error,) = ignored
    assert '"tunnels-esp/one" of the cluster makes no sense' in error.msg


# --- messages


ips = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
inner = st.binary(min_size=16, max_size=16).filter(any)


@given(st.data(), inner, inner, st.integers(256, (1 << 32) - 1))
def test_messages(data: st.DataObject, one: bytes, other: bytes, spi: int) -> None:
    """What we send is what we would read of the kernel, of our number only."""
    ends = data.draw(
        st.sampled_from([4, 16]).flatmap(
            lambda n: st.tuples(*[st.binary(min_size=n, max_size=n)] * 2)
        )
    )
    association = Association(*ends, spi, bytes(20), one, other)
    message = xfrm.add_association(association, 7).body
    found = xfrm._association(message, 7)
    assert found == Found(*ends, spi, 0, 0, 0, message)
    assert xfrm._association(message, 8) is None
    later = xfrm._association(xfrm._end(found.replace(added=100), 110).body, 7)
    assert later is not None and later.ends == 10
    policy = Policy(OUT, one, other, *ends, spi)
    message = xfrm.set_policy(policy, 7).body
    assert xfrm._policy(message, 7) == policy
    assert xfrm._policy(message, 8) is None
    blocking = message[:161] + b"\1" + message[162:]
    assert xfrm._policy(blocking, 7) == Policy(OUT, one, other, b"", b"")
    assert "00" * 20 not in xfrm.add_association(association, 7).what


# --- what the hosts make of it


class Kernel:
    """One host's associations and policies, and all keys that were ever sent by."""

    def __init__(self) -> None:
        self.found: dict[tuple[bytes, bytes, int], tuple[Association, Found]] = {}
        self.present: dict[tuple[int, bytes, bytes], Policy] = {}
        self.keys: list[bytes] = []
        self.taken: set[int] = set()
        self.patience = -1  # how many associations until a kill

    def associations(self) -> list[Found]:
        return [found for _, found in self.found.values()]

    def policies(self) -> set[Policy]:
        return set(self.present.values())

    def add(self, associations: list[Association]) -> None:
        for each in associations:
            name = each.source, each.destination, each.spi
            if name in self.found or each.spi in self.taken:
                raise KernelRefused(17, "File exists")
            if not self.patience:
                raise KeyboardInterrupt
            self.patience -= 1
            self.found[name] = each, Found(*name, 0, 0, 0, b"")
            self.keys.append(each.key)

    def delete(self, found: list[Found]) -> None:
        for each in found:
            self.found.pop((each.source, each.destination, each.spi), None)

    def end(self, found: list[Found], at: int) -> None:
        for each in found:
            name = each.source, each.destination, each.spi
            self.found[name] = self.found[name][0], each.replace(ends=at)

    def set_policies(self, wanted: Any, unwanted: Any = ()) -> None:
        for each in unwanted:
            self.present.pop((each.direction, each.inner_source, each.inner_destination), None)
        for each in wanted:
            self.present[each.direction, each.inner_source, each.inner_destination] = each

    def expire(self) -> None:
        self.delete([each for each in self.associations() if each.ends])


class Node:
    """A host whose kernel is that one."""

    def __init__(self, number: int, directory: Path) -> None:
        self.kernel = Kernel()
        cluster = Cluster(FileStore(str(directory / "store")), lambda error: None)
        self.member = cluster.join(Member(f"host-{number}", bytes((10, 0, 0, number)), 1450))
        self.membership = Membership(cluster, str(directory / "run"), self.member.node)
        document = {"subnets": [], "dataDir": str(directory / self.member.node)}
        self.tunnel: Any = EspTunnel(None, overlay_config(document), self.membership)  # type: ignore[arg-type]
        self.tunnel._opened = self.kernel

    def reconcile(self) -> None:
        self.tunnel.reconcile(self.member)

    def draw(self) -> None:
        with self.tunnel._file.lock():
            self.tunnel._look(self.member)
            self.tunnel._reconcile(self.tunnel._file.draw())

    def restore(self, entry: str) -> None:
        self.membership.cluster.store.commit((), (Put(f"tunnels-esp/{self.member.node}", entry),))

    def fence(self) -> None:
        """Be fenced, and join again."""
        cluster = self.membership.cluster
        cluster.fence(self.member.node)
        self.member = cluster.join(self.member.replace(revision=0))

    def published(self) -> str:
        entry = self.membership.cluster.store.get(f"tunnels-esp/{self.member.node}")
        assert entry is not None
        return entry.value


STEPS = (
    "reconcile",
    "draw",
    "draw, killed",
    "fence",
    "flush",
    "flush policies",
    "expire",
    "restore",
    "forget key",
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(STEPS)), max_size=15))
def test_no_key_twice(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str]]
) -> None:
    """Whatever is lost and comes back, no association is made of a key that one was made of;
    and hosts that are left alone come to agree.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tunnel_esp.link, "find", lambda *_: object())
        directory = tmp_path_factory.mktemp("hosts")
        nodes = [Node(number, directory) for number in (1, 2, 3)]
        for each in (*nodes, *nodes):
            each.reconcile()
        entries = [each.published() for each in nodes]
        for number, step in steps:
            node = nodes[number]
            if step == "flush":
                node.kernel.found.clear()
            elif step == "flush policies":
                node.kernel.present.clear()
            elif step == "expire":
                node.kernel.expire()
            elif step == "restore":
                node.restore(entries[number])
            elif step == "forget key":
                Path(node.tunnel._file.path).unlink(missing_ok=True)
            elif step == "draw":
                node.draw()
            elif step == "draw, killed":
                node.kernel.patience = 1
                with suppress(KeyboardInterrupt):
                    node.draw()
                node.kernel.patience = -1
            elif step == "fence":
                node.fence()
            else:
                node.reconcile()
        # In the end, when all have turned, all agree.
        patched.setattr(tunnel_esp, "_TURN_SECONDS", 0)
        for each in (*nodes, *nodes, *nodes, *nodes):
            each.reconcile()
        for each in nodes:
            each.kernel.expire()
        for one in nodes:
            assert len(set(one.kernel.keys)) == len(one.kernel.keys)
            assert len(one.kernel.found) == 4
            for name, (association, _) in one.kernel.found.items():
                (other,) = (each for each in nodes if each is not one and each.member.vtep in name)
                assert other.kernel.found[name][0] == association


def test_spi_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An SPI that is somebody else's makes for another key."""
    monkeypatch.setattr(tunnel_esp.link, "find", lambda *_: object())
    one, other = (Node(number, tmp_path) for number in (1, 2))
    for each in (one, other):
        each.reconcile()
    first = one.tunnel._file.present().public
    second = tunnels_esp.ends(other.membership.cluster)[1].key
    one.kernel.taken = {spi_between(second, first)}
    one.reconcile()
    assert one.tunnel._file.present().public != first
    assert len(one.kernel.found) == 2


def test_turning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another key a host sends by the former one until the other host has used the new."""
    monkeypatch.setattr(tunnel_esp.link, "find", lambda *_: object())
    one, other = (Node(number, tmp_path) for number in (1, 2))
    for each in (one, other, one):
        each.reconcile()

    def sends_by() -> int:
        (spi,) = (each.spi for each in one.kernel.policies() if each.direction == OUT)
        assert (one.member.vtep, other.member.vtep, spi) in one.kernel.found
        return spi

    former = sends_by()
    one.draw()
    assert sends_by() == former
    assert not one.tunnel.settled
    new_in = next(
        each
        for each in one.kernel.associations()
        if each.destination == one.member.vtep
        and not each.ends
        and each.spi
        == spi_between(other.tunnel._file.present().public, one.tunnel._file.present().public)
    )
    other.reconcile()
    name = new_in.source, new_in.destination, new_in.spi
    one.kernel.found[name] = one.kernel.found[name][0], new_in.replace(packets=1)
    one.reconcile()
    assert one.tunnel.settled
    assert sends_by() != former
    ending = [each for each in one.kernel.associations() if each.ends]
    assert [each.destination for each in ending] == [one.member.vtep]
    assert {each.direction for each in one.kernel.policies()} == {IN, OUT}


def test_fenced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that comes back has another key, so that the others can keep theirs."""
    monkeypatch.setattr(tunnel_esp.link, "find", lambda *_: object())
    one, *others = nodes = [Node(number, tmp_path) for number in (1, 2, 3)]
    for each in (*nodes, *nodes):
        each.reconcile()
    before = [each.published() for each in nodes]
    one.fence()
    for each in others:
        each.reconcile()
        assert len(each.kernel.found) == 2
    for each in nodes:
        each.reconcile()
    after = [each.published() for each in nodes]
    assert after[0] != before[0]
    assert after[1:] == before[1:]
