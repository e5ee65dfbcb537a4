"""Allocated addresses in host-local's own files, with an index that makes each step flat.

The files are the truth and the Go plugin's format, under its lock, so that both may work
on one directory: ``<data dir>/<network>/<address>`` holds the owner as
``<container ID>\\r\\n<interface name>``, and ``last_reserved_ip.<range set>`` where the next
search begins.

The index lies beside them in ``<data dir>/.cnm/<network>``: a symbolic link for each owner
whose target is its addresses and the boot in which they were claimed, and a bitmap of used
addresses for each block of 65,536. It is in step with the files exactly when both
directories carry the same modification time, one of the last century: whoever makes or
removes a file moves the files' directory to the present. So a change by the Go plugin, by
hand, or a kill half-way is noticed by two stat calls, and the index is built anew from the
files. With the index goes the knowledge of which claims are older than a reboot.

An address that rests after its release has its bit set and no file; which ones do, and
since when, is in a queue beside the index (resting.py).
"""

from errno import EEXIST, EINVAL, ENOENT, ENOTDIR
from posix import (
    O_CLOEXEC,
    O_CREAT,
    O_NOFOLLOW,
    O_RDWR,
    close,
    link,
    listdir,
    pread,
    pwrite,
    readlink,
    rmdir,
    symlink,
    unlink,
    urandom,
    utime,
)
from posix import open as open_file

from cnm_core.config import formats
from cnm_core.errors import Error, StateFailure
from cnm_core.inet import format_ip, parse_ip, to_int
from cnm_core.model import EndpointKey
from cnm_core.store import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from typing import Self

    from cnm_core.store.resting import Resting

BLOCK_BITS = 16
_BLOCK_BYTES = (1 << BLOCK_BITS) // 8
_NAME_LIMIT = 255
_BOOT = 8  # of a boot ID's characters, which keep a link's target in its inode
# The year 2000, in nanoseconds: what comes after is the time of a change, not a stamp.
_PRESENT = 946_684_800_000_000_000
_NOBODY = EndpointKey("", "")


class Allocations:
    """The allocations of one network, locked while this context manager is entered.

    `boot` tells what is different after each reboot.
    """

    def __init__(self, data_dir: str, network: str, boot: "Callable[[], str]" = str) -> None:
        self._files = f"{data_dir}/{network}"
        self._index = f"{data_dir}/.cnm/{network}"
        # No network's name begins with a dot.
        self._claim = f"{data_dir}/.cnm/.{network}.claim"
        self._rests = f"{data_dir}/.cnm/.{network}.resting"
        self._lock = files.Lock(self._files + "/lock")
        self._boot = boot
        self._changed = False
        self._block: tuple[int, int, bytes] | None = None

    def exists(self) -> bool:
        """Whether anything was ever allocated on this network."""
        return files.modified(self._files) is not None

    def __enter__(self) -> "Self":
        files.make_private(self._files)
        self._lock.__enter__()
        try:
            stamp = files.modified(self._files)
            if stamp != files.modified(self._index) or stamp is None or stamp >= _PRESENT:
                self.rebuild()
        except BaseException as error:
            self.__exit__(type(error), error)
            raise
        return self

    def __exit__(self, kind: object, error: object, *_: object) -> None:
        try:
            if isinstance(error, (OSError, ValueError)):
                self._distrust()
            elif self._changed and kind is None:
                self._stamp()
        finally:
            self._lock.__exit__()
        if isinstance(error, OSError):
            raise files.failure("update", self._index, error) from None
        if isinstance(error, ValueError):
            raise StateFailure(
                f'"{self._index}" is damaged: {error}', details="the next call makes it anew"
            ) from None

    def of(self, owner: EndpointKey) -> list[bytes]:
        """The addresses of an owner."""
        return self._known(owner)[0]

    def is_stale(self, owner: EndpointKey) -> bool:
        """Whether the owner claimed its addresses before the machine was last booted.

        A claim by others counts from when it was first seen here, so that it is never
        taken for older than it is.
        """
        ips, boot = self._known(owner)
        return bool(ips) and boot not in ("", self._boot()[:_BOOT])

    def owner_of(self, ip: bytes) -> EndpointKey | None:
        """The owner of an address: None if it is free, empty where its file names nobody."""
        try:
            content = files.read_text(f"{self._files}/{format_ip(ip)}", 4096)
        except StateFailure:
            return _NOBODY  # a directory, a link, a bad block: in use, nobody knows by whom
        return None if content is None else _owner_in(content)

    def owners(self) -> "Iterator[EndpointKey]":
        """Every owner; (ID, "") for files of a Go plugin too old to note the interface."""
        for name in listdir(self._index + "/owners"):
            container_id, _, ifname = name.partition(":")
            if container_id:
                yield EndpointKey(container_id, ifname)

    def ownerless(self) -> list[bytes]:
        """Addresses whose files name no owner: cut short by a crash, or damaged."""
        names = listdir(self._index + "/owners")
        return [parse_ip(name[1:]) for name in names if name.startswith(":")]

    def next_free(self, first: int, last: int, length: int) -> int | None:
        """The lowest free address from first to last as a number; addresses of `length` bytes."""
        while first <= last:
            block, bit = first >> BLOCK_BITS, first & ((1 << BLOCK_BITS) - 1)
            used = self._read_block(block, length)
            found = _first_zero(used, bit)
            if found is not None:
                free = (block << BLOCK_BITS) + found
                return free if free <= last else None
            first = (block + 1) << BLOCK_BITS
        return None

    def claim(self, ips: "Collection[bytes]", owner: EndpointKey) -> bytes | None:
        """Give all the addresses to the owner, or none: then the address that was taken.

        A file appears with its owner in it: it is written elsewhere and linked into
        place, which fails where there is one already.
        """
        self._changed = True
        files.remove(self._claim)  # what a kill left is still the file of an address
        done: list[bytes] = []
        try:
            files.write_new(self._claim, f"{owner.container_id}\r\n{owner.ifname}")
            for ip in ips:
                if not self._link(ip):
                    self._unlink_all(done)
                    self._outdate()
                    self._changed = False  # so that it stays out of step
                    return ip
                done.append(ip)
            self._mark(ips, used=True)
            self._note(owner, ips, self._boot())
        except BaseException:
            self._unlink_all(done)
            raise
        finally:
            self._forget_claim()
        return None

    def _forget_claim(self) -> None:
        try:
            files.remove(self._claim)
        except Error:
            pass  # no harm: the next claim removes it first, or fails

    def release(self, owner: EndpointKey, *, rest_since: int | None = None) -> list[bytes]:
        """Free every address of the owner; which they were.

        With a time, in nanoseconds since 1970, they rest from then on: `next_free` passes
        over them until `wake`. Of a file that cannot be read the index tells whose it is.
        """
        ips = self.of(owner)
        if ips:
            theirs = [ip for ip in ips if self.owner_of(ip) in (owner, _NOBODY)]
            self._free(ips, theirs, rest_since)
            files.remove(f"{self._index}/owners/{owner}")
        return ips

    def release_unindexed(self, owner: EndpointKey) -> None:
        """Free every address of the owner where the index cannot be written.

        Not within the context manager, which needs the index; nothing rests then. Without
        an address there is nothing to do, and no lock is needed that a read-only file system
        refuses.
        """
        files.refuse_link(self._files)
        if self._files_of(owner):
            with self._lock:
                self._unlink_all(self._files_of(owner))

    def _files_of(self, owner: EndpointKey) -> list[bytes]:
        """The addresses of an owner, by all the files."""
        found = []
        for name in files.names(self._files):
            try:
                ip = parse_ip(name)
            except ValueError:
                continue
            if self.owner_of(ip) == owner:
                found.append(ip)
        return found

    def release_ownerless(self, ip: bytes, *, rest_since: int | None = None) -> None:
        """Free an address whose file names no owner, as `release` does."""
        self._free([ip], [ip], rest_since)
        files.remove(f"{self._index}/owners/:{format_ip(ip)}")

    def allocated_at(self, ip: bytes) -> int:
        """When the file of an address was written; 0 where it is gone."""
        return files.modified(f"{self._files}/{format_ip(ip)}") or 0

    def wake(self, now: int, seconds: int) -> bool:
        """Let addresses that have rested so long be free again; whether any was.

        One look at the queue's beginning: if many are due, the next call has the others.
        """
        rests = self._resting()
        due = rests.due(now, seconds) if rests else []
        while rests and due and not any(due):  # all of these were ended early
            rests.drop(len(due))
            due = rests.due(now, seconds)
        if rests and due:
            self._outdate()
            self._mark([ip for ip in due if ip is not None], used=False)
            rests.drop(len(due))
        return bool(due)

    def wake_early(self, ip: bytes) -> None:
        """Let an address rest no longer that is about to be claimed."""
        rests = self._resting()
        if rests:
            self._outdate()
            rests.end(ip)

    def resting(self) -> "Iterator[tuple[int, bytes]]":
        """When each address that rests was released, and which it is, the first one first."""
        yield from self._resting() or ()

    def last_reserved(self, range_set: int) -> bytes | None:
        """The address that was given last out of a range set."""
        content = files.read_text(f"{self._files}/last_reserved_ip.{range_set}", 64)
        try:
            return parse_ip(content.strip()) if content else None
        except ValueError:
            return None  # cut short by a crash: the search begins at the range's first

    def set_last_reserved(self, range_set: int, ip: bytes) -> None:
        """Note the address that was given last out of a range set."""
        self._changed = True
        files.write_whole(f"{self._files}/last_reserved_ip.{range_set}", format_ip(ip))

    def _free(self, ips: list[bytes], theirs: list[bytes], rest_since: int | None) -> None:
        """Remove the files that are `theirs`, and let addresses rest or be free."""
        self._changed = True
        resting = rest_since is not None and self._let_rest(theirs, rest_since)
        self._unlink_all(theirs)
        self._mark([ip for ip in ips if not resting or ip not in theirs], used=False)

    def _let_rest(self, ips: list[bytes], since: int) -> bool:
        """Whether it could be noted; on a full disk addresses are freed without a rest.

        Noted before the files go: of what a kill leaves in both, a file is the truth.
        """
        from cnm_core.store.resting import Resting

        self._outdate()
        try:
            Resting(self._rests).append(ips, since)
        except Error:
            return False
        return True

    def _resting(self) -> "Resting | None":
        """The queue of addresses that rest; None while there are none."""
        if files.modified(self._rests) is None:
            return None
        from cnm_core.store.resting import Resting

        return Resting(self._rests)

    def _link(self, ip: bytes) -> bool:
        try:
            link(self._claim, f"{self._files}/{format_ip(ip)}")
        except OSError as error:
            if error.errno == EEXIST:
                return False
            raise files.failure("claim", f"{self._files}/{format_ip(ip)}", error) from None
        return True

    def _unlink_all(self, ips: "Iterator[bytes] | list[bytes]") -> None:
        for ip in ips:
            files.remove(f"{self._files}/{format_ip(ip)}")

    def _note(self, owner: EndpointKey, ips: "Collection[bytes]", boot: str) -> None:
        target = ",".join(map(format_ip, ips))
        symlink(f"{target}@{boot[:_BOOT]}", f"{self._index}/owners/{owner}")

    def _known(self, owner: EndpointKey) -> tuple[list[bytes], str]:
        """What is noted of an owner, in an index that makes sense by now."""
        try:
            return self._noted(str(owner))
        except ValueError:
            self.rebuild()
            return self._noted(str(owner))

    def _noted(self, name: str) -> tuple[list[bytes], str]:
        """The addresses of an owner, and the boot in which they were claimed. ValueError."""
        try:
            target = readlink(f"{self._index}/owners/{name}")
        except OSError as error:
            if error.errno in (EINVAL, ENOENT, ENOTDIR):
                return [], ""
            raise files.failure("read", f"{self._index}/owners/{name}", error) from None
        ips, _, boot = target.partition("@")
        return [parse_ip(text) for text in ips.split(",")], boot

    def _block_path(self, block: int, length: int) -> str:
        return f"{self._index}/used/{4 if length == 4 else 6}-{block:x}"

    def _open_block(self, block: int, length: int) -> int:
        """A block's bitmap, to be written to."""
        flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW
        return open_file(self._block_path(block, length), flags, 0o600)

    def _read_block(self, block: int, length: int) -> bytes:
        """A block's bitmap, read once for all the spans of it that are searched."""
        if self._block is None or self._block[:2] != (block, length):
            try:
                fd = open_file(self._block_path(block, length), O_RDWR | O_CLOEXEC | O_NOFOLLOW)
            except FileNotFoundError:
                return b""
            try:
                self._block = (block, length, pread(fd, _BLOCK_BYTES, 0))
            finally:
                close(fd)
        return self._block[2]

    def _mark(self, ips: "Collection[bytes]", *, used: bool) -> None:
        self._block = None
        blocks: dict[tuple[int, int], list[int]] = {}
        for ip in ips:
            block, bit = divmod(to_int(ip), 1 << BLOCK_BITS)
            blocks.setdefault((block, len(ip)), []).append(bit)
        for (block, length), bits in blocks.items():
            fd = self._open_block(block, length)
            try:
                for bit in bits:
                    byte = (pread(fd, 1, bit >> 3) or b"\0")[0]
                    mask = 1 << (bit & 7)
                    pwrite(fd, bytes([byte | mask if used else byte & ~mask]), bit >> 3)
            finally:
                close(fd)

    def rebuild(self) -> None:
        """Make the index from the files."""
        self._changed = True
        self._block = None
        self._forget_claim()
        boots = self._boots()
        files.make_private(self._index.rpartition("/")[0])
        files.make_private(self._index)
        _empty(self._index + "/owners")
        _empty(self._index + "/used")
        owned: dict[EndpointKey, list[bytes]] = {}
        blocks: dict[tuple[int, int], bytearray] = {}
        for name in listdir(self._files):
            try:
                ip = parse_ip(name)
            except ValueError:
                continue
            owner = self.owner_of(ip) or _NOBODY
            if owner is _NOBODY:
                owner = EndpointKey("", format_ip(ip))
            owned.setdefault(owner, []).append(ip)
            _set_bit(blocks, ip)
        for ip in self._still_resting({ip for ips in owned.values() for ip in ips}):
            _set_bit(blocks, ip)
        for owner, ips in owned.items():
            known = {boots.get((str(owner), ip)) for ip in ips}
            boot = known.pop() if len(known) == 1 else ""
            self._note(owner, ips, boot or self._boot())
        for (block, length), bits in blocks.items():
            fd = self._open_block(block, length)
            used = bits.lstrip(b"\0")  # a hole takes no room on a full disk
            pwrite(fd, used.rstrip(b"\0"), len(bits) - len(used))
            close(fd)

    def _boots(self) -> dict[tuple[str, bytes], str]:
        """When each address was claimed by each owner, as far as an older index knows."""
        found = {}
        try:
            names = listdir(self._index + "/owners")
        except OSError:
            return {}
        for name in names:
            try:
                ips, boot = self._noted(name)
            except ValueError:
                continue  # not ours: the index may have been damaged
            found.update(dict.fromkeys([(name, ip) for ip in ips], boot))
        return found

    def _still_resting(self, in_use: set[bytes]) -> list[bytes]:
        """What rests, without what somebody took who does not know of rests."""
        rests = self._resting()
        if rests is None:
            return []
        kept = [(since, ip) for since, ip in rests if ip not in in_use]
        rests.keep(kept)
        return [ip for _, ip in kept]

    def _outdate(self) -> None:
        """Have the index built anew, should we not come to the end of a change."""
        self._changed = True
        utime(self._index)

    def _distrust(self) -> None:
        """Have the next call build the index anew."""
        try:
            utime(self._index)
        except OSError:
            pass  # it is not there

    def _stamp(self) -> None:
        """Say that index and files are in step, by one time that no change can set."""
        past = to_int(urandom(8)) % _PRESENT
        try:
            utime(self._index, ns=(past, past))
            utime(self._files, ns=(past, past))
        except OSError:
            pass  # all is done, and the next call builds the index anew


def _owner_in(content: str) -> EndpointKey:
    container_id, _, ifname = content.strip().partition("\n")
    try:
        container_id = formats.name(container_id.strip())
        owner = EndpointKey(container_id, formats.interface_name(ifname) if ifname else "")
    except ValueError:
        return _NOBODY
    return owner if len(str(owner)) <= _NAME_LIMIT else _NOBODY


def _set_bit(blocks: dict[tuple[int, int], bytearray], ip: bytes) -> None:
    block, bit = divmod(to_int(ip), 1 << BLOCK_BITS)
    bits = blocks.setdefault((block, len(ip)), bytearray(_BLOCK_BYTES))
    bits[bit >> 3] |= 1 << (bit & 7)


def _first_zero(used: bytes, bit: int) -> int | None:
    """The first bit from `bit` on that is not set; bytes past the end count as zero."""
    at, below = divmod(bit, 8)
    first = used[at] if at < len(used) else 0
    masked = first | ((1 << below) - 1)
    if masked != 0xFF:
        return at * 8 + _lowest_zero(masked)
    rest = used[at + 1 :].lstrip(b"\xff")
    at = max(len(used), at + 1) - len(rest)
    if at >= _BLOCK_BYTES:
        return None
    return at * 8 + (_lowest_zero(rest[0]) if rest else 0)


def _lowest_zero(byte: int) -> int:
    return (~byte & (byte + 1)).bit_length() - 1


def _empty(directory: str) -> None:
    files.make_private(directory)
    for name in listdir(directory):
        path = f"{directory}/{name}"
        try:
            unlink(path)
        except IsADirectoryError:
            rmdir(path)
