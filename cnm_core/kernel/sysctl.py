"""Settings under /proc/sys, of the calling thread's network namespace."""

from errno import EROFS
from posix import O_CLOEXEC, O_RDONLY, O_WRONLY, close, read, write
from posix import open as open_file

from cnm_core.errors import KernelRefused, advice


def get(*path: str) -> str:
    """The value of a setting, as in get("net", "ipv4", "ip_forward"); KernelRefused."""
    try:
        fd = open_file("/proc/sys/" + "/".join(path), O_RDONLY | O_CLOEXEC)
        try:
            return read(fd, 4096).decode().strip()
        finally:
            close(fd)
    except OSError as error:
        raise _refused("read", path, error) from None


def boot_id() -> str:
    """What the kernel draws at random at each boot (drivers/char/random.c)."""
    global _boot_id
    _boot_id = _boot_id or get("kernel", "random", "boot_id")
    return _boot_id


_boot_id = ""


def set_to(value: str, *path: str) -> None:
    """Set a setting, as in set_to("1", "net", "ipv4", "ip_forward"); KernelRefused."""
    try:
        fd = open_file("/proc/sys/" + "/".join(path), O_WRONLY | O_CLOEXEC)
        try:
            write(fd, value.encode())
        finally:
            close(fd)
    except OSError as error:
        raise _refused(f"set to {value}", path, error) from None


def set_if_present(value: str, *path: str) -> None:
    """Set a setting where the kernel has it: IPv6 may be compiled out or disabled."""
    try:
        set_to(value, *path)
    except KernelRefused as error:
        if error.errno != 2:
            raise


def _refused(verb: str, path: tuple[str, ...], error: OSError) -> KernelRefused:
    read_only = "mount /proc/sys writable: containers have it so if privileged"
    return KernelRefused(
        error.errno or 0,
        f"cannot {verb} /proc/sys/{'/'.join(path)}: {error.strerror}",
        details=read_only if error.errno == EROFS else advice(error.errno),
    )
