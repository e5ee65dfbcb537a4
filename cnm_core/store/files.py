"""Files that survive a kill at any instruction: atomic writes, locks, private directories."""

from errno import (
    EACCES,
    EISDIR,
    ELOOP,
    EMFILE,
    ENAMETOOLONG,
    ENFILE,
    ENOENT,
    ENOMEM,
    ENOTDIR,
    ENXIO,
    EROFS,
)
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock
from posix import (
    O_CLOEXEC,
    O_CREAT,
    O_EXCL,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_RDONLY,
    O_RDWR,
    O_TRUNC,
    O_WRONLY,
    close,
    listdir,
    lstat,
    mkdir,
    read,
    rename,
    stat,
    unlink,
    write,
)
from posix import open as open_file

from cnm_core.errors import Damaged, Error, KernelRefused, StateFailure, advice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

SECOND = 1_000_000_000  # in the unit of all times here
_DIRECTORY, _FORMAT = 0o040000, 0o170000
# At such a path there is nothing, and there cannot be.
_ABSENT = (ENOENT, ENOTDIR, ENAMETOOLONG)
_ADVICE = {
    EACCES: "the plugin runs as root; check the mount and its mode",
    28: "the file system is full: free some space, or move the directory by its option",
    EROFS: "the file system is read-only: remount it, or move the directory by its option",
}


def failure(verb: str, path: str, error: OSError) -> Error:
    """The error for a state file that the system refuses.

    KernelRefused where it lacks means for any file, Damaged where there is something else.
    """
    msg, errno = f'cannot {verb} "{path}": {error.strerror}', error.errno or 0
    if errno in (EMFILE, ENFILE, ENOMEM):
        return KernelRefused(errno, msg, details=advice(errno))
    kind = Damaged if errno in (EISDIR, ELOOP, ENXIO) else StateFailure
    return kind(msg, details=_ADVICE.get(errno, ""))


def make_directories(path: str, mode: int = 0o700) -> None:
    """Make a directory and those above it; those that are there keep their modes."""
    try:
        _make_directory(path, mode)
    except FileNotFoundError:
        try:
            parts = path.split("/")
            for end in range(2, len(parts) + 1):
                _make_directory("/".join(parts[:end]), mode)
        except OSError as error:
            raise failure("make directory", path, error) from None
    except OSError as error:
        raise failure("make directory", path, error) from None


def _make_directory(path: str, mode: int) -> None:
    try:
        mkdir(path, mode)
    except FileExistsError:
        pass


def make_private(path: str) -> None:
    """Make a directory of state, where no link may lead elsewhere; those above it may be links."""
    make_directories(path)
    refuse_link(path)


def refuse_link(path: str) -> None:
    """Raise StateFailure for what stands in a directory's place, a link to another one above all.

    Nothing at all is no failure.
    """
    try:
        if lstat(path).st_mode & _FORMAT == _DIRECTORY:
            return
    except OSError as error:
        if error.errno in _ABSENT:
            return
        raise failure("read", path, error) from None
    raise StateFailure(
        f'"{path}" is not a directory of ours', details="remove it: a link there leads elsewhere"
    )


def read_text(path: str, limit: int = 1 << 20, *, links: bool = False) -> str | None:
    """The content of a file, None where there is none. Bytes that are not UTF-8 become U+FFFD.

    Links are followed where the path is an administrator's, as /etc/resolv.conf often is one; in
    directories of state never. A FIFO is empty, or has what was written to it, and is not
    waited for.
    """
    try:
        flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | (0 if links else O_NOFOLLOW)
        fd = open_file(path, flags)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise failure("read", path, error) from None
    try:
        return read(fd, limit).decode("utf-8", "replace")
    except OSError as error:
        raise failure("read", path, error) from None
    finally:
        close(fd)


def modified(path: str) -> int | None:
    """When a file was changed last, in nanoseconds since 1970; None where there is none."""
    try:
        return stat(path).st_mtime_ns
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise failure("read", path, error) from None


def within(since: int, now: int, seconds: int) -> bool:
    """Whether less than that lies between two times, the clock may have been set back."""
    return abs(now - since) < seconds * SECOND


def write_whole(path: str, content: str, mode: int = 0o600) -> None:
    """Write a file in place, emptied first, so that a kill may leave a part of it."""
    flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK
    try:
        _write(open_file(path, flags, mode), content)
    except OSError as error:
        raise failure("write", path, error) from None


def write_new(path: str, content: str, mode: int = 0o600) -> None:
    """Write a file in place of whatever has its name, for use before a link or a rename."""
    flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC
    try:
        try:
            fd = open_file(path, flags, mode)
        except FileExistsError:
            unlink(path)  # what a kill left, or a link to somewhere else
            fd = open_file(path, flags, mode)
        _write(fd, content)
    except OSError as error:
        raise failure("write", path, error) from None


def _write(fd: int, content: str) -> None:
    try:
        data = content.encode("utf-8", "surrogateescape")
        while data:
            data = data[write(fd, data) :]
    finally:
        close(fd)


def replace(path: str, content: str, mode: int = 0o600) -> None:
    """Write a file so that readers find the old content or the new, never a part."""
    new = temporary(path)
    try:
        write_new(new, content, mode)
        rename(new, path)
    except OSError as error:
        remove(new)
        raise failure("write", path, error) from None
    except Error:
        remove(new)
        raise


def temporary(path: str) -> str:
    """Where `replace` writes what is to become a file."""
    directory, _, name = path.rpartition("/")
    return f"{directory}/.{name}.new"


def temporaries(directory: str) -> list[str]:
    """What `replace` has begun in a directory and not ended."""
    found = names(directory)
    return [f"{directory}/{name}" for name in found if name[0] == "." and name.endswith(".new")]


def remove(path: str) -> bool:
    """Remove a file; False where there was none."""
    try:
        unlink(path)
    except OSError as error:
        if error.errno in _ABSENT:
            return False
        # Said before it is known whether there is one (do_unlinkat in fs/namei.c).
        if error.errno == EROFS and modified(path) is None:
            return False
        raise failure("remove", path, error) from None
    return True


def names(directory: str) -> list[str]:
    """What is in a directory; nothing where there is none. Raises StateFailure."""
    try:
        return listdir(directory)
    except OSError as error:
        if error.errno in _ABSENT:
            return []
        raise failure("list", directory, error) from None


class Lock:
    """An exclusive flock on a file, made when missing. A context manager."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> "Self":
        try:
            flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW
            self._fd = open_file(self._path, flags, 0o600)
            flock(self._fd, LOCK_EX)
        except OSError as error:
            raise failure("lock", self._path, error) from None
        return self

    def __exit__(self, *_: object) -> None:
        """Never raises: what was done under the lock is done, and each step unlocks by itself."""
        try:
            flock(self._fd, LOCK_UN)  # a child that deletes a link still has the file open
        except OSError:
            pass
        try:
            close(self._fd)
        except OSError:
            pass

    def is_held(self) -> bool:
        """Whether somebody else holds it now; whoever asks at the same time does not."""
        try:
            fd = open_file(self._path, O_RDWR | O_CLOEXEC | O_NOFOLLOW)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise failure("lock", self._path, error) from None
        try:
            flock(fd, LOCK_SH | LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            close(fd)
        return False
