"""What the hosts of an overlay share: a store of keys and values that changes in transactions.

Keys are paths of one or more segments, as in "networks/blue"; values are text. Every
transaction that changes something has the next revision. `cnm_core.store.shared_files`
keeps one host's store in files, `cnm_core.store.etcd` that of many hosts.
"""

from cnm_core.errors import TryAgainLater
from cnm_core.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol


class Entry(Record):
    """A key with its value, and the revision of the transaction that wrote it last.

    `created` is that of the one that wrote it first, since it was absent.
    """

    key: str
    value: str
    revision: int
    created: int = 0


class Range(Record):
    """The entries below a prefix in the order of their keys, as they were at a revision."""

    entries: tuple[Entry, ...]
    revision: int


class Unchanged(Record):
    """The condition that a key was written last at a revision; 0 means that it is absent."""

    key: str
    revision: int = 0


class Holds(Record):
    """The condition that a key is there and has a value."""

    key: str
    value: str


class Put(Record):
    """Write a key. With a lease it is removed when the lease ends; 0 is none."""

    key: str
    value: str
    lease: int = 0


class Delete(Record):
    """Remove a key; it may be absent."""

    key: str


class Change(Record):
    """What a watch saw: the new value of a key, or None where it was removed."""

    key: str
    value: str | None
    revision: int


class Unreachable(TryAgainLater):
    """The store does not answer, or has lost its quorum."""


class Compacted(Exception):
    """The store has forgotten the changes that a watch asked for: read the range anew."""


if TYPE_CHECKING:

    class SharedStore(Protocol):
        """All methods raise Unreachable where the store cannot serve them now."""

        def get(self, key: str) -> Entry | None:
            """A key's entry, None where it is absent."""

        def range(self, prefix: str) -> Range:
            """All keys below a prefix, which ends with a slash or is empty."""

        def commit(
            self,
            conditions: "tuple[Unchanged | Holds, ...]",
            changes: "tuple[Put | Delete, ...]",
        ) -> int | None:
            """Do all changes if all conditions hold; the revision, or None where one does not.

            A key may be changed once in a transaction.
            """

        def watch(self, prefix: str, revision: int) -> "Iterator[tuple[Change, ...]]":
            """The changes below a prefix after a revision, as they come, without end.

            An empty tuple comes now and then, to let the caller do something else.
            Raises Compacted where the revision is too old.
            """

        def grant(self, seconds: int) -> int:
            """A new lease, which ends unless it is kept alive within that time."""

        def keep_alive(self, lease: int) -> bool:
            """Have a lease last for its whole time again; False where it has ended."""

        def revoke(self, lease: int) -> None:
            """End a lease, which may have ended, and remove its keys."""

        def close(self) -> None:
            """Let go of connections and files."""
