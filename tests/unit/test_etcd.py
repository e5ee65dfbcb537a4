"""Answers that etcd would never give: they are no answer, and end."""

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import cnm_core.json
from cnm_core import http
from cnm_core.errors import Error, NotAvailable
from cnm_core.store.etcd import Access, EtcdStore
from cnm_core.store.shared import Unreachable

Answer = tuple[int, Any]
KEY = b64encode(b"cnm/v1/default/a").decode()


class _Connection:
    """In place of one to etcd."""

    def __init__(self, answers: Callable[[dict[str, Any]], Answer]) -> None:
        self._answers = answers

    def request(self, _: str, __: str, body: bytes, *___: Any, **____: Any) -> http.Answer:
        status, document = self._answers(json.loads(body))
        return http.Answer(status, "", json.dumps(document).encode())

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        yield self.request("", "", b"{}").body + b"\n"
        raise http.Unanswered("the end")

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Callable[..., EtcdStore]:
    """Makes a client of a server that answers so."""

    def make(answers: Callable[[dict[str, Any]], Answer], user: str = "") -> EtcdStore:
        monkeypatch.setattr(http, "Connection", lambda _: _Connection(answers))
        servers = (http.Server(host="10.0.0.1", port=2379), http.Server(host="10.0.0.2", port=2379))
        return EtcdStore(Access(servers, user, "secret"), "cnm/v1/default/")

    return make


@pytest.mark.parametrize(
    "answer",
    [
        (200, {"kvs": 5}),
        (200, {"kvs": [5]}),
        (200, {"kvs": [{"key": KEY, "mod_revision": "²"}]}),
        (200, {"kvs": [{"key": KEY, "mod_revision": "9" * 5000}]}),
        (200, {"kvs": [{"key": KEY, "mod_revision": []}]}),
        (200, {"header": 5}),
        (200, []),
        (500, {"code": 5, "message": "no such thing"}),
        (500, {"code": 11}),
        (500, {"code": "x"}),
        (200, {"header": {"revision": "2"}, "more": True}),
        (200, {"header": {"revision": "2"}, "more": True, "kvs": [{"key": KEY}]}),
    ],
    ids=str,
)
def test_senseless_answers(store: Callable[..., EtcdStore], answer: Answer) -> None:
    """A range that cannot be read is a store that cannot be reached."""
    with pytest.raises(Unreachable):
        store(lambda _: answer).range("a/")


def test_errors_without_json(store: Callable[..., EtcdStore]) -> None:
    """Of the gateway itself, or of what is no etcd: its words are the error's."""
    with pytest.raises(Unreachable, match=r"404 .*page not found"):
        store(lambda _: (404, "404 page not found")).get("a")
    with pytest.raises(NotAvailable, match="CommonName of client"):
        store(lambda _: (400, "CommonName of client sending a request")).get("a")
    with pytest.raises(Unreachable, match=r"10\.0\.0\.2:2379 sent"):
        store(lambda _: (200, "welcome")).get("a")


@pytest.mark.parametrize("loads", [json.loads, cnm_core.json.loads], ids=["Python's", "ours"])
def test_nested_without_end(
    store: Callable[..., EtcdStore], monkeypatch: pytest.MonkeyPatch, loads: Callable[[str], object]
) -> None:
    """Whoever reads the JSON, levels beyond its limit are no answer."""
    client = store(lambda _: (200, {}))
    nested = http.Answer(200, "", b'{"a":' * 100000)
    monkeypatch.setattr(_Connection, "request", lambda *_, **__: nested)
    with pytest.raises(Unreachable):
        EtcdStore(client._access, "cnm/v1/default/", loads).range("a/")


def test_a_code_that_no_error_has(store: Callable[..., EtcdStore]) -> None:
    """No error counts as one that the caller expects where it expects none."""
    with pytest.raises(Unreachable):
        store(lambda _: (500, {"code": -1})).get("a")


@pytest.mark.parametrize(
    "answer",
    [(200, {"kvs": [{"key": "é"}]}), (200, {"kvs": [{"key": "A"}]}), (200, {"kvs": [{"key": 5}]})],
    ids=str,
)
def test_keys_that_are_no_base64(store: Callable[..., EtcdStore], answer: Answer) -> None:
    """They are keys of nobody."""
    assert [each.key for each in store(lambda _: answer).range("a/").entries] == [""]


def test_keys_that_are_no_text(store: Callable[..., EtcdStore]) -> None:
    """The next page begins after the last key's bytes, whatever they are as text."""
    keys = [b"cnm/v1/default/a/\xff\xfe" + bytes([number]) for number in range(5)]

    def answers(question: dict[str, Any]) -> Answer:
        start = b64decode(question["key"])
        found = [key for key in keys if key >= start][:2]
        following = [key for key in keys if key > found[-1]] if found else []
        rows = [{"key": b64encode(key).decode(), "mod_revision": "2"} for key in found]
        return 200, {"header": {"revision": "2"}, "kvs": rows, "more": bool(following)}

    assert len(store(answers).range("a/").entries) == 5


def test_a_token_that_no_header_can_have(store: Callable[..., EtcdStore]) -> None:
    """It is not sent back."""
    with pytest.raises(Unreachable):
        store(lambda _: (200, {"token": "x\r\nHost: y"}), user="root").get("a")


@pytest.mark.parametrize("code", [5, 7, 11, 16])
def test_a_watch_that_is_refused(store: Callable[..., EtcdStore], code: int) -> None:
    """An error that whoever follows the store survives."""
    with pytest.raises(Error):
        list(store(lambda _: (401, {"code": code, "message": "no"}), user="root").watch("", 1))
