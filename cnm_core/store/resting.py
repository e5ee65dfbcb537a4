"""Addresses that rest after their release, in the order in which they were released.

A file of lines of one length, so that a step costs the same however many rest: the first
has the number of the line whose rest ends next, each other one when an address was
released (nanoseconds since 1970) and the address, or "-" where its rest was ended early.
"""

from posix import O_CLOEXEC, O_CREAT, O_NOFOLLOW, O_RDWR, close, fstat, ftruncate, pread, pwrite
from posix import open as open_file

from cnm_core.inet import format_ip, parse_ip
from cnm_core.store import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

_LINE = 64
_ENDED = "-"
# What a call looks at in one go: bounds how long it takes when many rests end at a time.
BATCH = 256


class Resting:
    """The queue in one file, which is there only while it is not empty. The caller locks."""

    def __init__(self, path: str) -> None:
        self._path = path

    def append(self, ips: "Collection[bytes]", since: int) -> None:
        """Let addresses rest. Raises StateFailure, and then none of them does."""
        lines = b"".join(_line(f"{since:020d} {format_ip(ip)}") for ip in ips)
        fd = self._open(O_CREAT)
        try:
            size = fstat(fd).st_size
            end = size // _LINE * _LINE  # a line cut short by a crash is written over
            if not end:
                lines = _line("1") + lines
            if pwrite(fd, lines, end) < len(lines):
                ftruncate(fd, end)
                raise OSError(28, "No space left on device")
        except OSError as error:
            raise files.failure("write", self._path, error) from None
        finally:
            close(fd)

    def due(self, now: int, seconds: int) -> list[bytes | None]:
        """What has rested that long, as far as one look goes; None for what was ended early."""
        found: list[bytes | None] = []
        for since, ip in self._first(BATCH):
            if ip is not None and files.within(since, now, seconds):
                break
            found.append(ip)
        return found

    def drop(self, count: int) -> None:
        """Forget the first ones of the queue."""
        fd = self._open()
        try:
            head, lines = _head(fd) + count, fstat(fd).st_size // _LINE
            if head < lines and head < lines // 2 + BATCH:
                pwrite(fd, _line(str(head)), 0)
                return
            rest = pread(fd, (lines - head) * _LINE, head * _LINE) if head < lines else b""
        except OSError as error:
            raise files.failure("write", self._path, error) from None
        finally:
            close(fd)
        self._rewrite(rest.decode("ascii", "replace"))

    def end(self, ip: bytes) -> None:
        """Let an address rest no longer, whenever it was released."""
        fd = self._open()
        try:
            content = pread(fd, fstat(fd).st_size, 0)
            name = f" {format_ip(ip)} ".encode()
            at = content.find(name, _head(fd) * _LINE)
            while at >= 0:
                pwrite(fd, f" {_ENDED}".encode().ljust(len(name)), at)
                at = content.find(name, at + 1)
        except OSError as error:
            raise files.failure("write", self._path, error) from None
        finally:
            close(fd)

    def keep(self, wanted: "Iterable[tuple[int, bytes]]") -> None:
        """Put others in the place of all that rest."""
        lines = [_line(f"{since:020d} {format_ip(ip)}") for since, ip in wanted]
        self._rewrite(b"".join(lines).decode())

    def __iter__(self) -> "Iterator[tuple[int, bytes]]":
        """When each was released, and which it is, the first one first."""
        for since, ip in self._first(None):
            if ip is not None:
                yield since, ip

    def _rewrite(self, lines: str) -> None:
        if lines:
            files.replace(self._path, _line("1").decode() + lines)
        else:
            files.remove(self._path)

    def _first(self, limit: int | None) -> "Iterator[tuple[int, bytes | None]]":
        try:
            fd = self._open()
        except FileNotFoundError:
            return
        try:
            head = _head(fd)
            size = fstat(fd).st_size if limit is None else limit * _LINE
            content = pread(fd, size, head * _LINE)
        except OSError as error:
            raise files.failure("read", self._path, error) from None
        finally:
            close(fd)
        whole = len(content) // _LINE * _LINE
        for at in range(0, whole, _LINE):
            yield _entry(content[at : at + _LINE])

    def _open(self, flags: int = 0) -> int:
        try:
            return open_file(self._path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0o600)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise files.failure("open", self._path, error) from None


def _line(text: str) -> bytes:
    return text.encode().ljust(_LINE - 1) + b"\n"


def _head(fd: int) -> int:
    """The line that the queue begins with: the first where the file says one that it has not."""
    text = pread(fd, _LINE, 0).strip()
    head = int(text) if text.isdigit() else 1
    return head if 0 < head <= fstat(fd).st_size // _LINE else 1


def _entry(line: bytes) -> tuple[int, bytes | None]:
    """A line's time and address; no address in a line that makes no sense, either."""
    since, _, name = line.decode("ascii", "replace").partition(" ")
    try:
        return int(since), parse_ip(name.strip())
    except ValueError:
        return 0, None
