"""Network namespaces: opening, comparing and entering them."""

from errno import EMFILE, ENFILE, ENOMEM
from fcntl import ioctl
from posix import O_CLOEXEC, O_NONBLOCK, O_RDONLY, close, fstat
from posix import open as open_file

from cnm_core.errors import InvalidNetNS, KernelRefused, advice
from cnm_core.kernel import sysctl
from cnm_core.kernel.netlink import Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

CLONE_NEWNET = 0x40000000
NS_GET_NSTYPE = 0xB703  # include/uapi/linux/nsfs.h


def _setns() -> "Callable[[int, int], None]":
    """os.setns, which is new in Python 3.12; the runtime we ship brings its own before that."""
    try:
        from posix import setns  # type: ignore[attr-defined,unused-ignore]

        return setns  # type: ignore[no-any-return,unused-ignore]
    except ImportError:
        pass
    try:
        from _cnm import setns  # type: ignore[import-not-found]

        return setns  # type: ignore[no-any-return]
    except ImportError:
        return _setns_by_ctypes


def _setns_by_ctypes(fd: int, nstype: int) -> None:
    from ctypes import CDLL, get_errno

    if CDLL(None, use_errno=True).setns(fd, nstype):
        raise OSError(get_errno(), "setns failed")


setns = _setns()


class Netns:
    """An open network namespace. A context manager that enters it and comes back."""

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path
        self.inode = fstat(fd).st_ino
        self._home = -1
        self._socket: Socket | None = None

    def __enter__(self) -> "Self":
        self._home = _open_own()
        try:
            setns(self.fd, CLONE_NEWNET)
        except OSError as error:
            close(self._home)
            raise InvalidNetNS(
                f'cannot enter network namespace "{self.path}": {error.strerror}',
                details="CAP_SYS_ADMIN is needed",
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        try:
            setns(self._home, CLONE_NEWNET)
        except OSError:  # ENOMEM: once more, or what is undone now would be undone in there
            setns(self._home, CLONE_NEWNET)
        close(self._home)

    @property
    def identity(self) -> str:
        """What tells this namespace from every other, also one of another boot."""
        return f"{sysctl.boot_id()}:{self.inode}"

    def socket(self) -> Socket:
        """A netlink socket of the namespace, which works without being in it."""
        if self._socket is None:
            with self:
                self._socket = Socket()
        return self._socket


def open_netns(path: str) -> Netns:
    """The network namespace that a path is bound to.

    Raises InvalidNetNS where there is nothing, or something else: a plain file is what an
    unmounted namespace leaves behind. FIFOs and devices do not block. KernelRefused where the
    system lacks means to tell.
    """
    try:
        fd = open_file(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    except ValueError as error:
        raise InvalidNetNS(f'cannot open network namespace "{path}": {error}') from None
    except OSError as error:
        msg = f'cannot open network namespace "{path}": {error.strerror}'
        if error.errno in (EMFILE, ENFILE, ENOMEM):
            raise KernelRefused(error.errno, msg, details=advice(error.errno)) from None
        raise InvalidNetNS(msg) from None
    try:
        if ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET:
            return Netns(fd, path)
    except OSError:
        pass  # ENOTTY: not a namespace file; said below, as for one of another type
    close(fd)
    raise InvalidNetNS(
        f'"{path}" is not a network namespace',
        details="CNI_NETNS must be a path such as /run/netns/NAME or /proc/PID/ns/net",
    )


def find_netns(path: str) -> Netns | None:
    """The network namespace at a path; None where it is gone or the path means another thing."""
    if not path:
        return None
    try:
        return open_netns(path)
    except InvalidNetNS:
        return None


def is_of_another_boot(identity: str) -> bool:
    """Whether the namespace of that identity went down with the machine; "" tells nothing."""
    return bool(identity) and not identity.startswith(f"{sysctl.boot_id()}:")


def _open_own() -> int:
    try:
        return open_file("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)
    except OSError as error:
        raise KernelRefused(
            error.errno or 0,
            f"cannot open /proc/self/ns/net: {error.strerror}",
            details=advice(error.errno) or "is /proc mounted where the runtime runs?",
        ) from None


def own_inode() -> int:
    """The inode of the namespace that this thread is in."""
    fd = _open_own()
    try:
        return fstat(fd).st_ino
    finally:
        close(fd)
