"""The shared store of many hosts: etcd v3, through its JSON gateway.

The gateway (etcd's documentation, "gRPC gateway") is the gRPC API in JSON over HTTP: keys
and values in base64, 64-bit numbers as text, zero values left out. One transaction is one
request.
"""

from binascii import a2b_base64, b2a_base64
from posix import stat

from cnm_core import http, json
from cnm_core.errors import InvalidNetworkConfig, NotAvailable
from cnm_core.record import Record
from cnm_core.store.shared import (
    Change,
    Compacted,
    Delete,
    Entry,
    Holds,
    Put,
    Range,
    Unchanged,
    Unreachable,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cnm_core.tls import Trust

# How many seconds a request may take: longer than an election of etcd (--election-timeout, 1 s).
_PATIENCE = 5.0
_PAUSE = 0.5
_LIMIT = 256 << 20
_PAGE = 1000
_ATTEMPTS = 5
# A server cut off from the others ends a watch, in which it could tell nothing
# (rpctypes.MetadataRequireLeaderKey of etcd; the gateway takes it from a header).
_REQUIRE_LEADER = {"Grpc-Metadata-hasleader": "true"}
# Codes of gRPC (google.golang.org/grpc/codes) that tell of the caller, not of the store.
_UNAUTHENTICATED, _PERMISSION_DENIED, _INVALID_ARGUMENT, _NOT_FOUND = 16, 7, 3, 5
_OF_CALLER = _UNAUTHENTICATED, _PERMISSION_DENIED, _INVALID_ARGUMENT
# The gateway asks etcd with its own certificate, so it takes no name from a client's where etcd
# has users (allowMethod and accessController in embed/serve.go of etcd).
_COMMON_NAME = "CommonName of client"
_OUT_OF_RANGE = 11
_DIGITS = 20  # of a number of 64 bits


class Access(Record):
    """How to reach a store: its servers, of which any will do, and who asks."""

    servers: tuple[http.Server, ...]
    user: str = ""
    password: str = ""


class Refused(Exception):
    """An error of etcd: its gRPC code and its words."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code

    @property
    def is_final(self) -> bool:
        """Whether every server would say so, another time too."""
        return self.code in _OF_CALLER or _COMMON_NAME in str(self)


class EtcdStore:
    """The keys below a prefix. Tries its servers in turn until one answers."""

    def __init__(
        self, access: Access, prefix: str, loads: "Callable[[str], object]" = json.loads
    ) -> None:
        """`loads` reads JSON: a process that lives longer has a faster one."""
        self._access = access
        self._prefix = prefix
        self._loads = loads
        self._servers = list(access.servers)
        self._connection = http.Connection(self._servers[0] if self._servers else http.Server())
        self._token = ""
        self._used = False

    def get(self, key: str) -> Entry | None:
        """A key's entry; see SharedStore."""
        answer = self._call("/v3/kv/range", {"key": self._key(key)})
        return next((self._entry(each) for each in _list(answer, "kvs")), None)

    def range(self, prefix: str) -> Range:
        """All keys below a prefix; see SharedStore.

        Read in pages: a hundred thousand at once would take more memory than the rest, and
        longer than a request may. All are of the first one's revision.
        """
        whole = self._prefix + prefix
        for _ in range(_ATTEMPTS):
            try:
                return self._read_range(whole.encode(), _end(whole))
            except Refused:
                continue  # compacted meanwhile: once more, of a new revision
        raise Unreachable(f'etcd compacts faster than "{prefix}" can be read')

    def _read_range(self, start: bytes, end: str) -> Range:
        entries: list[Entry] = []
        page: dict[str, object] = {"range_end": end, "limit": str(_PAGE)}
        revision = 0
        while True:
            page["key"] = _encoded(start)
            answer = self._call("/v3/kv/range", page, expected=_OUT_OF_RANGE)
            found = _list(answer, "kvs")
            entries += map(self._entry, found)
            revision = revision or _number(_object(answer, "header"), "revision")
            if answer.get("more") is not True:
                return Range(tuple(entries), revision)
            page["revision"] = str(revision)
            # By its bytes, which somebody may have chosen to be no text.
            start, before = _decoded(found[-1].get("key")) + b"\0" if found else b"", start
            if start <= before:
                raise Unreachable("etcd has more keys, and does not tell which")

    def commit(
        self, conditions: "tuple[Unchanged | Holds, ...]", changes: "tuple[Put | Delete, ...]"
    ) -> int | None:
        """Do all changes if all conditions hold; see SharedStore."""
        compare = [self._condition(each) for each in conditions]
        success = [self._change(each) for each in changes]
        answer = self._call("/v3/kv/txn", {"compare": compare, "success": success})
        if answer.get("succeeded") is not True:
            return None
        return _number(_object(answer, "header"), "revision")

    def watch(self, prefix: str, revision: int) -> "Iterator[tuple[Change, ...]]":
        """The changes below a prefix after a revision; see SharedStore."""
        try:
            yield from self._changes(prefix, revision)
        except http.NotHttp as error:  # half a line, where a server was killed
            self._take_next_server()
            raise Unreachable(f"etcd's watch broke off: {error}") from None

    def grant(self, seconds: int) -> int:
        """A new lease; see SharedStore."""
        return _number(self._call("/v3/lease/grant", {"TTL": str(seconds)}), "ID")

    def keep_alive(self, lease: int) -> bool:
        """Have a lease last for its whole time again; see SharedStore."""
        answer = self._call("/v3/lease/keepalive", {"ID": str(lease)})
        return _number(_object(answer, "result"), "TTL") > 0

    def revoke(self, lease: int) -> None:
        """End a lease; see SharedStore."""
        try:
            self._call("/v3/lease/revoke", {"ID": str(lease)}, expected=_NOT_FOUND)
        except Refused:
            pass  # it has ended

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _condition(self, condition: "Unchanged | Holds") -> dict[str, object]:
        equal = {"key": self._key(condition.key), "result": "EQUAL"}
        if isinstance(condition, Holds):
            return {**equal, "target": "VALUE", "value": _encode(condition.value)}
        return {**equal, "target": "MOD", "mod_revision": str(condition.revision)}

    def _changes(self, prefix: str, revision: int) -> "Iterator[tuple[Change, ...]]":
        create = {
            "key": self._key(prefix),
            "range_end": _end(self._prefix + prefix),
            "start_revision": str(revision + 1),
        }
        for line in self._stream("/v3/watch", {"create_request": create}):
            if not line:
                yield ()
                continue
            answer = self._read(line)
            if "error" in answer:
                self._take_next_server()
                why = _object(answer, "error").get("message", "")
                raise Unreachable(f"etcd ended a watch: {why}")
            result = _object(answer, "result")
            if result.get("canceled") is True:
                if _number(result, "compact_revision"):
                    raise Compacted
                raise Unreachable(f"etcd ended a watch: {result.get('cancel_reason', '')}")
            yield tuple(self._event(each) for each in _list(result, "events"))

    def _change(self, change: "Put | Delete") -> dict[str, object]:
        if isinstance(change, Delete):
            return {"request_delete_range": {"key": self._key(change.key)}}
        put = {"key": self._key(change.key), "value": _encode(change.value)}
        if change.lease:
            put["lease"] = str(change.lease)
        return {"request_put": put}

    def _key(self, key: str) -> str:
        return _encode(self._prefix + key)

    def _entry(self, fields: dict[str, object]) -> Entry:
        key = _decode(fields.get("key")).removeprefix(self._prefix)
        revision, created = (_number(fields, f"{each}_revision") for each in ("mod", "create"))
        return Entry(key, _decode(fields.get("value")), revision, created)

    def _event(self, fields: dict[str, object]) -> Change:
        entry = self._entry(_object(fields, "kv"))
        value = None if fields.get("type") == "DELETE" else entry.value
        return Change(entry.key, value, entry.revision)

    def _call(
        self, target: str, question: dict[str, object], *, expected: int | None = None
    ) -> dict[str, object]:
        """The answer to a question, of the first server that gives one.

        Raises Refused with the code that the caller expects, and no other.
        A question is asked again only where it does no harm: every change that is not
        idempotent has a condition, which the second time would not hold.
        """
        failures = []
        for _ in range(len(self._servers) + 2 if self._servers else 0):
            try:
                return self._ask(target, question)
            except (http.Unanswered, http.NotHttp) as error:
                closed = isinstance(error, http.Unanswered)
                if self._used and closed and not isinstance(error, http.Unreachable):
                    self._used = False  # the server may have closed it meanwhile: once more
                    continue
                failures.append(str(error))
            except ValueError as error:
                raise _useless(self._servers[0].trust, error) from None
            except Refused as error:
                if error.code == _UNAUTHENTICATED and self._token:
                    self._token = ""  # it has run out: once more, with a new one
                    continue
                if error.is_final:
                    raise _refusal(error, self._access.user) from None
                if error.code == expected:
                    raise
                failures.append(f"{self._servers[0]}: {error}")
            if len(failures) == len(self._servers):
                break
            self._take_next_server()
        raise Unreachable(
            f"etcd cannot be reached: {'; '.join(failures) or 'no server is known'}",
            details="traffic of containers goes on without it; try again when it is back",
        )

    def _ask(self, target: str, question: dict[str, object]) -> dict[str, object]:
        headers = self._authorization()
        body = json.dumps(question).encode()
        answer = self._connection.request(
            "POST", target, body, headers, seconds=_PATIENCE, limit=_LIMIT
        )
        self._used = True
        return self._fields(answer)

    def _fields(self, answer: http.Answer) -> dict[str, object]:
        """What an answer has. Raises Refused where it is an error, NotHttp where it is nothing."""
        if answer.status == 200:
            return self._read(answer.body)
        try:
            fields = self._read(answer.body)
        except http.NotHttp:  # of the gateway itself, or of another server
            words = json.shorten(answer.body.decode("utf-8", "replace").strip())
            raise Refused(0, f"{answer.status} {answer.reason}: {words}") from None
        raise Refused(_number(fields, "code"), str(fields.get("message", answer.reason)))

    def _stream(self, target: str, question: dict[str, object]) -> "Iterator[bytes]":
        """The lines of an answer without end, b"" where none came for a while."""
        connection = http.Connection(self._servers[0])
        rest = b""
        try:
            body = json.dumps(question).encode()
            headers = self._authorization() | _REQUIRE_LEADER
            for piece in connection.stream(
                "POST", target, body, headers, seconds=_PATIENCE, pause=_PAUSE
            ):
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > _LIMIT:
                    raise http.NotHttp(f"a line of more than {_LIMIT} bytes")
                yield from lines
                if not piece:
                    yield b""
        except (http.Unanswered, http.NotHttp) as error:
            if rest:
                yield rest  # etcd's last line has no end: it says why
            self._take_next_server()
            raise Unreachable(f"etcd's watch broke off: {error}") from None
        except ValueError as error:
            raise _useless(self._servers[0].trust, error) from None
        except Refused as error:
            raise _refusal(error, self._access.user) from None
        finally:
            connection.close()

    def _authorization(self) -> dict[str, str]:
        if not self._access.user:
            return {}
        if not self._token:
            question = {"name": self._access.user, "password": self._access.password}
            answer = self._connection.request(
                "POST", "/v3/auth/authenticate", json.dumps(question).encode(), seconds=_PATIENCE
            )
            fields = self._fields(answer)
            self._token = str(fields.get("token", ""))
            if not self._token.isascii() or not self._token.isprintable():
                raise http.NotHttp(f"{self._servers[0]} sent a token that no header can have")
        return {"Authorization": self._token}

    def _read(self, body: bytes) -> dict[str, object]:
        try:
            fields = self._loads(body.decode())
        except (ValueError, RecursionError) as error:  # the latter where `loads` is Python's own
            raise http.NotHttp(f"{self._servers[0]} sent no JSON: {error}") from None
        if type(fields) is not dict:
            raise http.NotHttp(f"{self._servers[0]} sent {json.shorten(fields)}")
        return fields

    def _take_next_server(self) -> None:
        self._connection.close()
        self._servers.append(self._servers.pop(0))
        self._connection = http.Connection(self._servers[0])
        self._token, self._used = "", False


def _refusal(error: Refused, user: str) -> NotAvailable:
    asked = f'user "{user}"' if user else "a client without a user"
    details = "check store.user, store.passwordFile and the roles of that user in etcd"
    if _COMMON_NAME in str(error):
        details = "where etcd has users, make store.certFile without a common name (CN)"
    return NotAvailable(f"etcd refuses {asked}: {error}", details=details)


def _useless(trust: "Trust | None", error: ValueError) -> InvalidNetworkConfig:
    """What is wrong with a server's trust: a file that is not there, or what TLS says of one."""
    files = {}
    if trust is not None:
        files = {"caFile": trust.ca, "certFile": trust.certificate, "keyFile": trust.key}
    key, why = "", str(error)
    for name, path in files.items():
        try:
            stat(path or "/")
        except OSError as absent:
            key, why = f".{name}", f"{path}: {absent.strerror}"
            break
        if path and why.startswith(f"{path}:"):
            key = f".{name}"
    return InvalidNetworkConfig(
        f"store{key}: {why}",
        details="caFile, certFile and keyFile name PEM files that root can read",
    )


def _encode(text: str) -> str:
    return _encoded(text.encode())


def _encoded(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode()


def _decode(text: object) -> str:
    return _decoded(text).decode("utf-8", "replace")


def _decoded(text: object) -> bytes:
    try:
        return a2b_base64(str(text or ""))
    except ValueError:
        return b""


def _end(prefix: str) -> str:
    """The first key after all that begin with a prefix."""
    return _encode(prefix[:-1] + chr(ord(prefix[-1]) + 1))


def _number(fields: dict[str, object], key: str) -> int:
    """A number, which is text where it may have 64 bits, and left out where it is 0."""
    value = fields.get(key, 0)
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _DIGITS:
        return int(value)
    raise Unreachable(f"etcd sent {json.shorten(value)} instead of a number for {key}")


def _object(fields: dict[str, object], key: str) -> dict[str, object]:
    value = fields.get(key, {})
    if type(value) is not dict:
        raise Unreachable(f"etcd sent {json.shorten(value)} instead of an object for {key}")
    return value


def _list(fields: dict[str, object], key: str) -> list[dict[str, object]]:
    value = fields.get(key, [])
    if type(value) is not list or not all(type(each) is dict for each in value):
        raise Unreachable(f"etcd sent {json.shorten(value)} instead of a list for {key}")
    return value
