#!/usr/bin/env python3
"""Run tests/vm/guest under Debian's own kernel in QEMU, as pytest would run them here.

The guest sees the root of this machine through 9p and changes only a layer in its memory, so
this repository and its .venv are at the same paths in it. It is emulated: where this runs, KVM
need not. Every argument but --timeout goes to pytest, and its exit code comes back; 70 says
that there was none. Needs root, and the packages that `make test-vm` installs.
"""

import argparse
import lzma
import os
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".tools/vm"
INIT = Path(__file__).with_name("init")
TESTS = "tests/vm/guest"

METAPACKAGE = "linux-image-amd64"
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What the guest's root needs; the kernel asks for all other modules when it wants them.
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")

# QEMU finds code that it has translated by its address, so programs and libraries are to be at
# the same ones in every process: that is four times as fast. Crypto self-tests take 20 s.
KERNEL_PARAMETERS = "console=ttyS0 quiet panic=-1 norandmaps cryptomgr.notests=1"
PROCESSORS = 1  # two of them take three times as long to do the same
MEGABYTES = 2048

TOOLS = ("qemu-system-x86_64", "busybox", "cpio", "depmod", "modprobe")
PATIENCE = 900  # seconds; five times what a quiet machine needs
TAIL = 2000  # bytes of the console that are told again when the guest fails


class VmError(Exception):
    """Why there is no answer from pytest."""


@dataclass(frozen=True)
class Kernel:
    """A kernel as its package has it, but not installed."""

    directory: Path

    @property
    def image(self) -> Path:
        """The uncompressed image."""
        return self.directory / "vmlinux"

    @property
    def modules(self) -> Path:
        """The modules of its one release."""
        (modules,) = (self.directory / "lib/modules").iterdir()
        return modules


def main(arguments: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, _terminated)
    parser = argparse.ArgumentParser(
        description=str(__doc__).partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=PATIENCE,
        metavar="SECONDS",
        help="how long the guest may run; default: %(default)s",
    )
    options, rest = parser.parse_known_args(arguments)
    try:
        require(TOOLS)
        with tempfile.TemporaryDirectory(prefix="cnm-vm-") as scratch:
            return run(kernel(CACHE), rest, Path(scratch), options.timeout)
    except VmError as error:
        print(f"vm: {error}", file=sys.stderr)
        return os.EX_SOFTWARE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def require(tools: Sequence[str]) -> None:
    """Fail unless these programs are there."""
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        raise VmError(f"{', '.join(missing)} missing: `make test-vm` installs what this needs")


def _terminated(number: int, frame: object) -> NoReturn:
    sys.exit(128 + number)


def run(kernel: Kernel, arguments: Sequence[str], scratch: Path, seconds: float) -> int:
    """Run pytest in a guest; its exit code."""
    results = scratch / "results"
    results.mkdir()
    (results / "command").write_text("".join(f"{word}\0" for word in pytest(arguments)))
    initrd = scratch / "initrd"
    initrd.write_bytes(pack(kernel, scratch / "initrd.d"))
    tail = watch(qemu(kernel, initrd, results), seconds)
    try:
        return int((results / "status").read_text())
    except (OSError, ValueError):
        raise VmError(f"the guest ended without a result; it last said:\n{tail}") from None


def pytest(arguments: Sequence[str]) -> list[str]:
    """The command that the guest runs."""
    environment = {
        "HOME": "/root",
        "PATH": SEARCH_PATH,
        "TERM": "linux",
        "COLUMNS": shutil.get_terminal_size().columns,
        "LC_ALL": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": 1,
        # Hypothesis's alone takes 15 s there; -p NAME loads one that a test needs.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": 1,
        "CNM_GUEST": 1,
    }
    variables = [f"{name}={value}" for name, value in environment.items()]
    color = f"--color={'yes' if sys.stdout.isatty() else 'no'}"
    command = [f"{ROOT}/.venv/bin/python", "-m", "pytest", "-p", "no:cacheprovider", color]
    # /tmp is half of the guest's memory, of which an etcd takes 128 MB for its log.
    command += ["-o", "tmp_path_retention_policy=failed"]
    tests = () if any(word.startswith("tests/") for word in arguments) else (TESTS,)
    return ["env", "-i", "-C", str(ROOT), *variables, *command, *tests, *arguments]


# --- the kernel


def kernel(cache: Path) -> Kernel:
    """The kernel in the cache; Debian's newest when the cache is empty."""
    found = Kernel(cache / "kernel")
    if not found.directory.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            # The one rename makes it whole or absent, whatever interrupts this.
            unpack(download(Path(scratch)), Path(scratch)).rename(found.directory)
    return found


def download(directory: Path) -> Path:
    """The package of the kernel, with fresh lists of packages if the present ones fail."""
    try:
        _download(directory)
    except VmError:
        _done("apt-get", "-q", "update")
        _download(directory)
    (package,) = directory.glob("*.deb")
    return package


def _download(directory: Path) -> None:
    depends = _done("apt-cache", "depends", METAPACKAGE)
    name = re.search(r"Depends: (linux-image-\S+)", depends)
    if name is None:
        raise VmError(f"{METAPACKAGE} depends on no kernel:\n{depends}")
    print(f"vm: getting {name[1]}", flush=True)
    # The user that apt downloads as cannot write here.
    root = ("-o", "APT::Sandbox::User=root")
    _done("apt-get", "-q", *root, "download", name[1], cwd=directory)


def unpack(package: Path, scratch: Path) -> Path:
    """A directory with what a guest needs of a package."""
    whole, part = scratch / "package", scratch / "kernel"
    _done("dpkg-deb", "-x", str(package), str(whole))
    (part / "lib").mkdir(parents=True)
    (whole / "lib/modules").rename(part / "lib/modules")
    unpacked = Kernel(part)
    _done("depmod", "-b", str(part), unpacked.modules.name)
    (compressed,) = (whole / "boot").glob("vmlinuz-*")
    unpacked.image.write_bytes(decompressed(compressed.read_bytes()))
    return part


def decompressed(image: bytes) -> bytes:
    """The kernel within a bzImage, which would take seconds to unpack itself in emulation."""
    # Documentation/x86/boot.rst: setup_sects, payload_offset and payload_length.
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * 512 + offset
    try:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(image[start : start + length])
    except lzma.LZMAError as error:
        raise VmError(f"the kernel is not compressed by xz: {error}") from None


# --- the guest


def pack(kernel: Kernel, directory: Path) -> bytes:
    """An archive with our init, busybox, and the modules in the order of their loading."""
    for name in ("bin", "modules"):
        (directory / name).mkdir(parents=True)
    shutil.copy(INIT, directory / "init")
    shutil.copy("/bin/busybox", directory / "bin/busybox")
    for number, module in enumerate(modules(kernel)):
        shutil.copy(module, directory / f"modules/{number:02}-{module.name}")
    names = [path.relative_to(directory) for path in sorted(directory.rglob("*"))]
    return _output(
        ["cpio", "--quiet", "--null", "--create", "--format=newc"],
        input=b"".join(bytes(name) + b"\0" for name in names),
        cwd=directory,
    )


def modules(kernel: Kernel) -> list[Path]:
    """The files of MODULES and of what they depend on, each after what it needs."""
    where = ("-d", str(kernel.directory), "-S", kernel.modules.name)
    listed = _done("modprobe", *where, "--show-depends", "--all", *MODULES)
    return list(dict.fromkeys(map(Path, re.findall(r"^insmod (.+?\.ko)\b", listed, re.MULTILINE))))


def qemu(kernel: Kernel, initrd: Path, results: Path) -> list[str]:
    """The command that boots the guest."""
    return [
        *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"),
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none", "-serial", "stdio"),
        *("-machine", "q35", "-accel", "tcg", "-cpu", "max"),
        *("-smp", str(PROCESSORS), "-m", str(MEGABYTES)),
        *("-kernel", str(kernel.image), "-initrd", str(initrd)),
        *("-append", f'{KERNEL_PARAMETERS} repository="{ROOT}"'),
        *_share("root", Path("/")),
        *_share("repository", ROOT),
        *_share("modules", kernel.modules),
        *_share("results", results, readonly="off"),
    ]


def _share(name: str, path: Path, readonly: str = "on") -> list[str]:
    escaped = str(path).replace(",", ",,")
    how = f"security_model=none,multidevs=remap,readonly={readonly}"
    return [
        *("-fsdev", f"local,id={name},path={escaped},{how}"),
        *("-device", f"virtio-9p-pci,fsdev={name},mount_tag={name}"),
    ]


def watch(command: Sequence[str], seconds: float) -> str:
    """Run a command to its end and show what it says; the last of that.

    VmError, with that, where it takes longer. The command is gone then, too.
    """
    tail = b""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        try:
            for piece in _pieces(process.stdout, time.monotonic() + seconds):
                sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
                tail = (tail + piece)[-TAIL:]
        except TimeoutError:
            said = tail.decode(errors="replace")
            raise VmError(
                f"the guest took more than {seconds:g} seconds, and was ended; "
                f"--timeout SECONDS gives it more. It last said:\n{said}"
            ) from None
        finally:
            process.kill()
    return tail.decode(errors="replace")


def _pieces(console: IO[bytes], end: float) -> Iterator[bytes]:
    while select.select([console], [], [], max(0, end - time.monotonic()))[0]:
        piece = os.read(console.fileno(), 65536)
        if not piece:
            return
        yield piece.replace(b"\r\n", b"\n")
    raise TimeoutError


def _done(*command: str, cwd: Path | None = None) -> str:
    return _output(command, cwd=cwd).decode()


def _output(command: Sequence[str], *, input: bytes = b"", cwd: Path | None = None) -> bytes:
    done = subprocess.run(command, input=input, capture_output=True, cwd=cwd, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace")
        raise VmError(f"{' '.join(command)}: exit code {done.returncode}\n{said}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
