"""One contract for every shared store: the files of one host, and a real etcd."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cnm_core import http
from cnm_core.agent.turns import turns
from cnm_core.errors import InvalidNetworkConfig, NotAvailable, StateFailure
from cnm_core.store.etcd import Access, EtcdStore
from cnm_core.store.shared import (
    Change,
    Compacted,
    Delete,
    Entry,
    Holds,
    Put,
    Unchanged,
    Unreachable,
)
from cnm_core.store.shared_files import FileStore
from cnm_core.tls import Trust
from tests import cni
from tests.certificates import authority, signed
from tests.etcd import Etcd
from tests.iproute import HOST, Netns

if TYPE_CHECKING:
    from cnm_core.store.shared import SharedStore

Make = Callable[[], "SharedStore"]


def secure_store(server: Etcd, trust: Trust, user: str = "", password: str = "") -> EtcdStore:
    """A client that speaks TLS."""
    servers = (http.parse_url(server.url).replace(trust=trust),)
    return EtcdStore(Access(servers, user, password), "cnm/v1/test/")


def etcd_store(*servers: Etcd, user: str = "", password: str = "") -> EtcdStore:
    """A client of some servers."""
    urls = tuple(http.parse_url(server.url) for server in servers)
    return EtcdStore(Access(urls, user, password), "cnm/v1/test/")


@pytest.fixture
def etcd(node: None, tmp_path: Path) -> Iterator[Etcd]:
    """A server on the loopback of an empty host."""
    server = Etcd(tmp_path / "etcd")
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(params=["files", "etcd"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes clients of one store."""
    if request.param == "files":
        return lambda: FileStore(str(tmp_path / "store"))
    server: Etcd = request.getfixturevalue("etcd")
    return lambda: etcd_store(server)


@pytest.fixture
def store(make: Make) -> "SharedStore":
    """A client of an empty store."""
    return make()


def put(store: "SharedStore", key: str, value: str, lease: int = 0) -> int:
    """Write a key, whatever is there."""
    revision = store.commit((), (Put(key, value, lease),))
    assert revision is not None
    return revision


def next_changes(watch: Iterator[tuple[Change, ...]]) -> tuple[Change, ...]:
    """The next changes of a watch."""
    return next(found for found in watch if found)


def test_get(store: "SharedStore") -> None:
    """A key holds what was written last, at that revision."""
    assert store.get("networks/blue") is None
    first = put(store, "networks/blue", "one")
    second = put(store, "networks/blue", 'zwei "\n\t ü')
    assert second > first
    assert store.get("networks/blue") == Entry("networks/blue", 'zwei "\n\t ü', second, first)
    assert store.get("networks") is None


def test_range(store: "SharedStore") -> None:
    """A range has the keys below a prefix in order, and the revision it is of."""
    for key in ("a/2", "a/1", "a/b/c", "ab/1", "a", "b/1"):
        put(store, key, key.upper())
    found = store.range("a/")
    assert [(each.key, each.value) for each in found.entries] == [
        ("a/1", "A/1"),
        ("a/2", "A/2"),
        ("a/b/c", "A/B/C"),
    ]
    newest = store.get("b/1")
    assert newest and found.revision == newest.revision
    assert len(store.range("").entries) == 6 if isinstance(store, FileStore) else True
    assert store.range("c/").entries == ()


@pytest.mark.parametrize("key", ["a/web:eth0@1%", "a/10.0.0.0_27", "a/fd00::1", "a/ü"])
def test_keys(store: "SharedStore", key: str) -> None:
    """Segments of keys may have what names of interfaces have."""
    put(store, key, "x")
    assert [each.key for each in store.range("a/").entries] == [key]
    store.commit((), (Delete(key),))
    assert store.range("a/").entries == ()


def test_conditions(store: "SharedStore") -> None:
    """A transaction happens whole, or not at all."""
    first = put(store, "a", "1")
    claim = (Unchanged("ips/1"), Unchanged("a", first)), (Put("ips/1", "me"), Put("eps/1", "x"))
    assert store.commit(*claim) is not None
    assert store.commit(*claim) is None
    assert store.commit((Unchanged("a", first),), (Delete("a"), Put("b", "2"))) is not None
    assert store.commit((Unchanged("a", first),), (Put("c", "3"),)) is None
    assert store.get("a") is None
    assert store.get("c") is None
    assert store.commit((Unchanged("a"),), (Delete("a"), Put("a2", "2"))) is not None


def test_holds(store: "SharedStore") -> None:
    """A condition on a key's value is met by that value, and not by absence."""
    put(store, "a", "mine")
    assert store.commit((Holds("a", "yours"),), (Delete("a"),)) is None
    assert store.commit((Holds("b", ""),), (Delete("a"),)) is None
    assert store.commit((Holds("a", "mine"), Unchanged("b")), (Delete("a"),)) is not None
    assert store.get("a") is None


def test_one_revision(store: "SharedStore") -> None:
    """What one transaction writes has one revision."""
    revision = store.commit((), (Put("a", "1"), Put("b", "2")))
    assert [store.get(key) for key in ("a", "b")] == [
        Entry("a", "1", revision or 0, revision or 0),
        Entry("b", "2", revision or 0, revision or 0),
    ]


def test_created(store: "SharedStore") -> None:
    """A key that was absent meanwhile has been made anew."""
    first = put(store, "a", "1")
    put(store, "a", "2")
    found = store.get("a")
    assert found and (found.created, found.revision > first) == (first, True)
    store.commit((), (Delete("a"),))
    again = put(store, "a", "3")
    assert store.get("a") == Entry("a", "3", again, again)


def test_rivals(make: Make) -> None:
    """Of many who claim a key at once, one gets it; none of the increments is lost."""
    won: list[int] = []

    def claim(number: int) -> None:
        store = make()
        if store.commit((Unchanged("claim"),), (Put("claim", str(number)),)):
            won.append(number)
        while True:
            entry = store.get("count")
            count = int(entry.value) if entry else 0
            condition = Unchanged("count", entry.revision if entry else 0)
            if store.commit((condition,), (Put("count", str(count + 1)),)):
                return

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = make()
    entry, count = store.get("claim"), store.get("count")
    assert entry and [int(entry.value)] == won
    assert count and count.value == "8"


def test_watch(store: "SharedStore", make: Make) -> None:
    """A watch has every change below its prefix, from a revision on."""
    start = put(store, "a/1", "old")
    put(store, "b/1", "no")
    put(store, "a/2", "two")
    watch = make().watch("a/", start)
    assert [(each.key, each.value) for each in next_changes(watch)] == [("a/2", "two")]
    store.commit((), (Delete("a/1"), Put("a/3", "three")))
    seen: set[tuple[str, str | None]] = set()
    while len(seen) < 2:
        seen |= {(each.key, each.value) for each in next_changes(watch)}
    assert seen == {("a/1", None), ("a/3", "three")}


def test_watch_pauses(store: "SharedStore") -> None:
    """A watch lets its caller go on while nothing happens."""
    start = put(store, "a/1", "x")
    assert next(store.watch("a/", start)) == ()


def test_watch_of_the_future(store: "SharedStore") -> None:
    """Of a store that was set back, by a restored backup, nothing is missed in silence."""
    revision = put(store, "a/1", "x")
    if isinstance(store, FileStore):
        with pytest.raises(Compacted):
            next(store.watch("a/", revision + 10))


def test_lease(store: "SharedStore") -> None:
    """Keys of a lease go when it is revoked, and when it is not kept alive."""
    lease = store.grant(60)
    put(store, "alive/a", "x", lease)
    put(store, "other", "x")
    assert store.keep_alive(lease)
    store.revoke(lease)
    assert store.get("alive/a") is None
    assert store.get("other") is not None
    assert not store.keep_alive(lease)
    store.revoke(lease)
    short = store.grant(3)
    put(store, "alive/b", "x", short)
    deadline = time.monotonic() + cni.PATIENCE
    while store.get("alive/b") is not None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not store.keep_alive(short)


def test_lease_let_go(store: "SharedStore") -> None:
    """A key that was written anew without the lease outlives it."""
    lease = store.grant(60)
    put(store, "alive/a", "x", lease)
    put(store, "alive/a", "y")
    store.revoke(lease)
    assert store.get("alive/a") is not None


def test_killed_transaction(tmp_path: Path) -> None:
    """A transaction of which a kill left the journal is finished by whoever comes next."""
    store = FileStore(str(tmp_path / "store"))
    revision = put(store, "a", "1")
    journal = f'{{"revision": {revision + 1}, "steps": [["a", null, 0], ["b", "2", 0]]}}'
    (tmp_path / "store/journal").write_text(journal)
    assert store.get("a") is None
    assert store.get("b") == Entry("b", "2", revision + 1, revision + 1)
    assert not (tmp_path / "store/journal").exists()


def test_history_is_cut(tmp_path: Path) -> None:
    """Old changes are forgotten, and who asks for them is told."""
    store = FileStore(str(tmp_path / "store"))
    first = put(store, "a", "1")
    history = tmp_path / "store/history"
    for number in range(3):
        history.write_text(history.read_text() + f"{first} {'x' * 199}\n" * 6000)
        put(store, "a", str(number))
    assert history.stat().st_size < 3 << 20
    with pytest.raises(Compacted):
        next(store.watch("", first - 1))


def test_damaged_entry(tmp_path: Path) -> None:
    """A file that makes no sense is named."""
    store = FileStore(str(tmp_path / "store"))
    put(store, "a", "1")
    (tmp_path / "store/entries/=a").write_text("nonsense")
    with pytest.raises(StateFailure, match="entries/=a"):
        store.get("a")


def test_compaction(etcd: Etcd) -> None:
    """A watch of what etcd has compacted says so."""
    store = etcd_store(etcd)
    first = put(store, "a/1", "x")
    for number in range(3):
        last = put(store, "a/1", str(number))
    etcd.call("/v3/kv/compaction", revision=str(last))
    with pytest.raises(Compacted):
        next_changes(store.watch("a/", first))


def test_turns(etcd: Etcd) -> None:
    """A follower's turn comes at first, after changes, when it is due, and after a compaction."""
    store, stopping = etcd_store(etcd), threading.Event()
    followed = turns(store, "a/", stopping, 3600)
    assert next(followed)  # the first
    put(store, "a/1", "x")
    assert next(followed)  # a change
    followed = turns(store, "a/", stopping, 0.1)
    assert next(followed)
    assert not next(followed)  # a tenth of a second later
    followed = turns(store, "a/", stopping, 3600)
    assert next(followed)
    for number in range(3):
        last = put(store, "a/1", str(number))
    etcd.call("/v3/kv/compaction", revision=str(last))
    assert next(followed)  # read, since the watch cannot tell
    stopping.set()
    assert list(followed) == []


def test_failover(etcd: Etcd, tmp_path: Path) -> None:
    """A server that is gone is passed over."""
    absent = Etcd(tmp_path / "absent", port=4379)
    store = etcd_store(absent, etcd)
    put(store, "a", "1")
    assert store.get("a") is not None


def test_down_and_up(etcd: Etcd) -> None:
    """While no server answers the error says who was asked; afterwards all is as it was."""
    store = etcd_store(etcd)
    put(store, "a", "1")
    watch = store.watch("a", 0)
    next_changes(watch)
    etcd.kill()
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:2379"):
        store.get("a")
    with pytest.raises(Unreachable):
        next_changes(watch)
    etcd.start()
    entry = store.get("a")
    assert entry and entry.value == "1"


def test_tls(node: None, tmp_path: Path) -> None:
    """Over TLS with client certificates; without one, or by another authority, an error."""
    ca, other = authority(tmp_path), authority(tmp_path, "other")
    names = "IP:127.0.0.1"
    server = Etcd(tmp_path / "etcd", identity=signed(tmp_path, ca, "server", names), authority=ca)
    client = signed(tmp_path, ca, "client", names)
    server.start()
    try:
        trust = Trust(str(ca.certificate), str(client.certificate), str(client.key))
        store = secure_store(server, trust)
        revision = put(store, "a", "1" * 100_000)
        assert store.get("a") == Entry("a", "1" * 100_000, revision, revision)
        watch = secure_store(server, trust).watch("", revision - 1)
        assert next_changes(watch)[0].key == "a"
        for changes in ({"ca": str(other.certificate)}, {"certificate": "", "key": ""}):
            with pytest.raises(Unreachable):
                secure_store(server, trust.replace(**changes)).get("a")
        missing = str(tmp_path / "missing")
        for field, key in (("ca", "caFile"), ("certificate", "certFile"), ("key", "keyFile")):
            with pytest.raises(InvalidNetworkConfig, match=f"store.{key}: .*missing: No such"):
                secure_store(server, trust.replace(**{field: missing})).get("a")
        with pytest.raises(InvalidNetworkConfig, match=r"store.caFile: .*client.ext: "):
            secure_store(server, trust.replace(ca=str(tmp_path / "client.ext"))).get("a")
        client.key.unlink()  # as while somebody renews it
        assert store.get("a")
        with pytest.raises(InvalidNetworkConfig, match="client"):
            next(store.watch("", revision))
    finally:
        server.kill()


def test_tls_and_users(node: None, tmp_path: Path) -> None:
    """Where etcd has users, too, its gateway takes only client certificates without a name."""
    ca, names = authority(tmp_path), "IP:127.0.0.1"
    server = Etcd(tmp_path / "etcd", identity=signed(tmp_path, ca, "server", names), authority=ca)
    named = signed(tmp_path, ca, "client", names)
    nameless = signed(tmp_path, ca, "nameless", names, "/O=cnm")
    server.start()
    try:
        server.enable_users()
        trust = Trust(str(ca.certificate), str(nameless.certificate), str(nameless.key))
        put(secure_store(server, trust, "root", "secret"), "a", "1")
        trust = trust.replace(certificate=str(named.certificate), key=str(named.key))
        with pytest.raises(NotAvailable, match="CommonName") as refusal:
            secure_store(server, trust, "root", "secret").get("a")
        assert "common name (CN)" in refusal.value.details
    finally:
        server.kill()


def test_authentication(etcd: Etcd) -> None:
    """With a user and its password; without, the error says what to do."""
    etcd.enable_users()
    store = etcd_store(etcd, user="root", password="secret")
    put(store, "a", "1")
    with pytest.raises(NotAvailable, match='user "root"') as refusal:
        etcd_store(etcd, user="root", password="wrong").get("a")
    assert "wrong" not in str(refusal.value) + refusal.value.details
    with pytest.raises(NotAvailable, match="without a user"):
        etcd_store(etcd).get("a")


def test_pages(etcd: Etcd) -> None:
    """A range of many keys is read in pages, all of one revision."""
    store = etcd_store(etcd)
    keys = [f"many/{number:05}" for number in range(2500)]
    for at in range(0, len(keys), 100):
        store.commit((), tuple(Put(key, key) for key in keys[at : at + 100]))
    found = store.range("many/")
    assert [each.key for each in found.entries] == keys
    assert all(each.key == each.value for each in found.entries)
    assert found.revision == max(each.revision for each in found.entries)


def test_watch_of_a_lost_server(
    netns: Callable[[], Netns], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch ends when its server is gone without a word, as behind a broken link."""
    monkeypatch.setattr(http, "_KEEPALIVE", dict.fromkeys(http._KEEPALIVE, 1))
    far = netns()
    HOST.ip("link", "add", "near0", "type", "veth", "peer", "name", "far0", "netns", far.name)
    HOST.ip("addr", "add", "10.98.0.1/24", "dev", "near0")
    HOST.ip("link", "set", "near0", "up")
    far.ip("addr", "add", "10.98.0.2/24", "dev", "far0")
    far.ip("link", "set", "far0", "up")
    server = Etcd(tmp_path / "etcd", address="10.98.0.2", netns=far)
    server.start()
    try:
        store = etcd_store(server)
        watch = store.watch("a/", put(store, "a/1", "1"))
        assert next(watch) == ()
        far.ip("link", "set", "far0", "down")
        with pytest.raises(Unreachable, match="watch broke off"):
            assert not any(watch)
    finally:
        server.kill()


def test_watch_without_a_leader(node: None, tmp_path: Path) -> None:
    """A watch of a server that has lost the others ends; it would never tell anything."""
    one = Etcd(tmp_path / "one", name="one")
    two = Etcd(tmp_path / "two", name="two", port=3379)
    one.members = two.members = {each.name: each.peer_url for each in (one, two)}
    try:
        for each in (one, two):
            each.begin()
        for each in (one, two):
            each.await_answer()
        store = etcd_store(one)
        watch = store.watch("a/", put(store, "a/1", "1"))
        assert next(watch) == ()
        two.kill()
        with pytest.raises(Unreachable, match="no leader"):
            assert not any(watch)
    finally:
        one.kill()
        two.kill()


def test_half_a_change(node: None) -> None:
    """A watch whose server is killed in the middle of a line breaks off, as any other does."""
    answer = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{"result"\r\n'
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            accepted, _ = listener.accept()
            with accepted:
                accepted.recv(1 << 16)
                accepted.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        url = http.parse_url(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(Unreachable, match="watch broke off"):
            next(EtcdStore(Access((url,)), "cnm/v1/test/").watch("a/", 1))
        server.join()
