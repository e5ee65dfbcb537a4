"""The shared store of one host, in files: nothing to install and nothing that runs.

An entry is a file ``<directory>/entries/<segment>/…/=<last segment>`` that holds the
revisions of its last and its first change, the lease and the value, a line each for the
revisions, the lease, and all that is left. A transaction is first written whole to
``journal``, then done, then forgotten; whoever takes the lock finishes what a kill left.
``history`` has a line for each change, for watches. Times of leases are CLOCK_BOOTTIME
of one boot, so that a clock that is set changes nothing, and a reboot ends them all.
"""

from posix import (
    O_APPEND,
    O_CLOEXEC,
    O_CREAT,
    O_NOFOLLOW,
    O_WRONLY,
    close,
    rmdir,
    stat,
    write,
)
from posix import open as open_file
from time import CLOCK_BOOTTIME, clock_gettime, sleep

from cnm_core import json
from cnm_core.errors import Error, StateFailure
from cnm_core.store import files
from cnm_core.store.shared import Change, Compacted, Delete, Entry, Holds, Put, Range, Unchanged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_HISTORY_BYTES = 1 << 20
_POLL_SECONDS = 0.05


class FileStore:
    """The store in one directory, which is made when something is first written."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def get(self, key: str) -> Entry | None:
        """A key's entry; see SharedStore."""
        with self._locked():
            return self._read(key)

    def range(self, prefix: str) -> Range:
        """All keys below a prefix; see SharedStore."""
        with self._locked():
            keys = sorted(self._keys(prefix.rstrip("/")))
            found = [self._read(key) for key in keys]
            return Range(tuple(each for each in found if each), self._revision())

    def commit(
        self, conditions: "tuple[Unchanged | Holds, ...]", changes: "tuple[Put | Delete, ...]"
    ) -> int | None:
        """Do all changes if all conditions hold; see SharedStore."""
        with self._locked():
            for each in conditions:
                if not _is_met(each, self._read(each.key)):
                    return None
            revision, journal = self._commit(changes)
            try:
                self._apply(journal)
            except (Error, OSError):
                pass  # it is done all the same: whoever takes the lock next applies the rest
            return revision

    def watch(self, prefix: str, revision: int) -> "Iterator[tuple[Change, ...]]":
        """The changes below a prefix after a revision; see SharedStore."""
        while True:
            found: tuple[Change, ...] = ()
            with self._locked():
                newest = self._revision()
                if newest != revision:
                    found = tuple(self._since(prefix, revision))
                    revision = newest
            yield found
            if not found:
                sleep(_POLL_SECONDS)

    def grant(self, seconds: int) -> int:
        """A new lease; see SharedStore."""
        with self._locked():
            lease = 1 + max([*self._leases(), 0])
            self._write_lease(lease, seconds, ())
            return lease

    def keep_alive(self, lease: int) -> bool:
        """Have a lease last for its whole time again; see SharedStore."""
        with self._locked():
            found = self._lease(lease)
            if found is None:
                return False
            seconds, _, keys = found
            self._write_lease(lease, seconds, keys)
            return True

    def revoke(self, lease: int) -> None:
        """End a lease; see SharedStore."""
        with self._locked():
            self._end(lease)

    def close(self) -> None:
        """Nothing stays open."""

    def damage(self, error: Exception) -> StateFailure:
        """The error for files that make no sense."""
        return StateFailure(
            f'the store in "{self._directory}" is damaged: {error}',
            details="move the directory away: the next ADD of each network begins a new one",
        )

    def _locked(self) -> "_Opened":
        files.make_private(self._directory)
        return _Opened(self, files.Lock(self._directory + "/lock"))

    def _tidy(self) -> None:
        """Finish a transaction that was killed, and end the leases whose time is over."""
        journal = files.read_text(self._directory + "/journal", 1 << 24)
        self._apply(journal or "")
        for lease in self._leases():
            found = self._lease(lease)
            if found is None or found[1] <= clock_gettime(CLOCK_BOOTTIME):
                self._end(lease)

    def _commit(self, changes: "tuple[Put | Delete, ...]") -> "tuple[int, str]":
        """Put a transaction into the journal: its revision, and what is to be applied."""
        done = [each for each in changes if isinstance(each, Put) or self._read(each.key)]
        revision = self._revision()
        if not done:
            return revision, ""
        steps = [
            [each.key, each.value, each.lease] if isinstance(each, Put) else [each.key, None, 0]
            for each in done
        ]
        content = json.dumps({"revision": revision + 1, "steps": steps})
        files.replace(self._directory + "/journal", content)
        return revision + 1, content

    def _apply(self, journal: str) -> None:
        """Do what a journal says, if anything; safe to repeat."""
        if not journal:
            return
        fields = json.loads(journal)
        if type(fields) is not dict:
            raise ValueError("its journal is not an object")
        revision = fields["revision"]
        for key, value, lease in fields["steps"]:
            if value is None:
                files.remove(self._path(key))
                self._prune(key)
                continue
            path = self._path(key)
            files.make_directories(path.rpartition("/")[0])
            present = self._read(key)
            created = present.created if present else revision
            files.replace(path, f"{revision} {created}\n{lease}\n{value}")
            self._bind(lease, key)
        self._note(revision, [key for key, _, _ in fields["steps"]])
        files.replace(self._directory + "/revision", str(revision))
        files.remove(self._directory + "/journal")

    def _read(self, key: str) -> Entry | None:
        content = files.read_text(self._path(key))
        if content is None:
            return None
        revisions, _, rest = content.partition("\n")
        _, _, value = rest.partition("\n")
        revision, _, created = revisions.partition(" ")
        if not revision.isdigit() or not (created or revision).isdigit():
            raise StateFailure(f'"{self._path(key)}" is damaged', details="remove the file")
        return Entry(key, value, int(revision), int(created or revision))

    def _revision(self) -> int:
        content = files.read_text(self._directory + "/revision")
        return int(content) if content and content.isdigit() else 0

    def _keys(self, prefix: str) -> "Iterator[str]":
        """The keys below a prefix without its slash."""
        for name in files.names(f"{self._directory}/entries/{prefix}"):
            below = f"{prefix}/" if prefix else ""
            if name.startswith("="):
                yield below + name[1:]
            elif not name.startswith("."):
                yield from self._keys(below + name)

    def _path(self, key: str) -> str:
        *parents, name = key.split("/")
        for each in (*parents, name):
            if not each or each[0] in "=." or not each.isprintable():
                raise StateFailure(f'"{key}" is no key of the store')
        return "/".join((self._directory, "entries", *parents, "=" + name))

    def _prune(self, key: str) -> None:
        """Remove the directories that a removed key leaves empty."""
        parents = key.split("/")[:-1]
        while parents:
            try:
                rmdir("/".join((self._directory, "entries", *parents)))
            except OSError:
                return  # others are in it
            parents.pop()

    def _note(self, revision: int, keys: "list[str]") -> None:
        path = self._directory + "/history"
        lines = "".join(f"{revision} {key}\n" for key in keys)
        if _size(path) > _HISTORY_BYTES:
            content = files.read_text(path, _HISTORY_BYTES * 2) or ""
            newer = content[len(content) // 2 :].partition("\n")[2]
            # All of a revision or nothing of it: a part would be taken for the whole.
            cut = newer.partition(" ")[0]
            kept = [line for line in newer.splitlines(True) if line.partition(" ")[0] != cut]
            files.replace(path, "".join(kept) + lines)
            return
        flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW
        try:
            fd = open_file(path, flags, 0o600)
            try:
                write(fd, lines.encode())
            finally:
                close(fd)
        except OSError as error:
            raise files.failure("write", path, error) from None

    def _since(self, prefix: str, revision: int) -> "Iterator[Change]":
        """The newest state of each key that changed after a revision."""
        content = files.read_text(self._directory + "/history", _HISTORY_BYTES * 2) or ""
        lines = [line.partition(" ") for line in content.splitlines()]
        first = int(lines[0][0]) if lines else self._revision() + 1
        if first > revision + 1 or revision > self._revision():
            raise Compacted
        newest = {key: int(number) for number, _, key in lines if int(number) > revision}
        for key, number in sorted(newest.items(), key=lambda item: item[1]):
            if key.startswith(prefix):
                entry = self._read(key)
                yield Change(key, entry.value if entry else None, number)

    def _leases(self) -> list[int]:
        return [int(name) for name in files.names(self._directory + "/leases") if name.isdigit()]

    def _lease(self, lease: int) -> "tuple[int, float, tuple[str, ...]] | None":
        """A lease's length in seconds, when it ends, and its keys."""
        content = files.read_text(f"{self._directory}/leases/{lease}")
        if content is None:
            return None
        seconds, until, boot, *keys = content.splitlines()
        return int(seconds), float(until) if boot == _boot() else 0.0, tuple(keys)

    def _write_lease(self, lease: int, seconds: int, keys: tuple[str, ...]) -> None:
        files.make_directories(self._directory + "/leases")
        until = clock_gettime(CLOCK_BOOTTIME) + seconds
        content = "\n".join([str(seconds), str(until), _boot(), *keys])
        files.replace(f"{self._directory}/leases/{lease}", content)

    def _bind(self, lease: int, key: str) -> None:
        found = self._lease(lease) if lease else None
        if found is not None and key not in found[2]:
            self._write_lease(lease, found[0], (*found[2], key))

    def _end(self, lease: int) -> None:
        found = self._lease(lease)
        owned = [key for key in found[2] if self._is_bound(key, lease)] if found else []
        if owned:
            self._apply(self._commit(tuple(Delete(key) for key in owned))[1])
        files.remove(f"{self._directory}/leases/{lease}")

    def _is_bound(self, key: str, lease: int) -> bool:
        content = files.read_text(self._path(key)) or ""
        return content.split("\n", 2)[1:2] == [str(lease)]


class _Opened:
    """The store's lock, held, with what a kill left tidied up."""

    def __init__(self, store: FileStore, lock: files.Lock) -> None:
        self._store = store
        self._lock = lock

    def __enter__(self) -> None:
        self._lock.__enter__()
        try:
            self._store._tidy()
        except BaseException as error:
            self.__exit__(type(error), error)
            raise

    def __exit__(self, _: object, error: object, *__: object) -> None:
        self._lock.__exit__()
        if isinstance(error, (ValueError, LookupError, TypeError, AttributeError)):
            raise self._store.damage(error) from None


def _is_met(condition: "Unchanged | Holds", present: Entry | None) -> bool:
    if isinstance(condition, Holds):
        return present is not None and present.value == condition.value
    return (present.revision if present else 0) == condition.revision


def _boot() -> str:
    """What tells this boot of the machine from any other (random(4))."""
    return (files.read_text("/proc/sys/kernel/random/boot_id") or "").strip()


def _size(path: str) -> int:
    try:
        return stat(path).st_size
    except FileNotFoundError:
        return 0
