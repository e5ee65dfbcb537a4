"""What the program that runs the guest makes of how it ends; no guest is started here."""

import gzip
import lzma
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vm import run as vm

Guest = Callable[[str], None]


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Guest:
    """Has a shell script, in the directory of results, stand in for the guest."""
    (tmp_path / "kernel").mkdir()

    def stand_in(script: str) -> None:
        def command(kernel: vm.Kernel, initrd: Path, results: Path) -> list[str]:
            return ["env", "-C", str(results), "sh", "-c", script]

        monkeypatch.setattr(vm, "qemu", command)

    monkeypatch.setattr(vm, "CACHE", tmp_path)
    monkeypatch.setattr(vm, "TOOLS", ())
    monkeypatch.setattr(vm, "pack", lambda kernel, directory: b"")
    monkeypatch.setattr("signal.signal", lambda number, action: None)
    return stand_in


@pytest.mark.parametrize("code", [0, 1, 5])
def test_exit_code(guest: Guest, code: int) -> None:
    """It is that of pytest."""
    guest(f"echo {code} > status")
    assert vm.main([]) == code


def test_arguments(guest: Guest, capfd: pytest.CaptureFixture[str]) -> None:
    """All but --timeout are pytest's, whatever they contain."""
    guest("cat command; echo 0 > status")
    assert vm.main(["-k", "a b or c'd", "--timeout", "60", "-x"]) == 0
    words = capfd.readouterr().out.split("\0")
    assert words[words.index(vm.TESTS) :] == [vm.TESTS, "-k", "a b or c'd", "-x", ""]


def test_some_tests(guest: Guest, capfd: pytest.CaptureFixture[str]) -> None:
    """Where tests of the guest are named, no others run."""
    guest("cat command; echo 0 > status")
    assert vm.main(["-x", f"{vm.TESTS}/test_kernel.py"]) == 0
    words = capfd.readouterr().out.split("\0")
    assert words[-3:] == ["-x", f"{vm.TESTS}/test_kernel.py", ""]
    assert vm.TESTS not in words


@pytest.mark.parametrize("script", ["echo panic", "echo panic; echo > status"])
def test_no_result(guest: Guest, capfd: pytest.CaptureFixture[str], script: str) -> None:
    """A guest that ends early is an error with its last words."""
    guest(script)
    assert vm.main([]) == os.EX_SOFTWARE
    out, err = capfd.readouterr()
    assert out == "panic\n"
    assert err.endswith("it last said:\npanic\n\n")


def test_timeout(guest: Guest, capfd: pytest.CaptureFixture[str]) -> None:
    """A guest that takes too long is ended, and nothing of it stays."""
    guest("echo $$; pwd; exec sleep 600")
    begin = time.monotonic()
    assert vm.main(["--timeout", "5"]) == os.EX_SOFTWARE
    assert time.monotonic() - begin < 500
    out, err = capfd.readouterr()
    number, directory = out.split()
    assert "more than 5 seconds" in err
    assert err.endswith(f"It last said:\n{out}\n")
    assert not Path("/proc", number).exists()
    assert not Path(directory).exists()


def test_missing_tools(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An error names what is to be installed."""
    monkeypatch.setattr(vm, "TOOLS", ("sh", "no-such-tool"))
    assert vm.main([]) == os.EX_SOFTWARE
    assert "no-such-tool missing: " in capfd.readouterr().err


def _image(payload: bytes) -> bytes:
    """What a bzImage has before its payload, the payload, and something after it."""
    setup = bytearray(3 * 512)
    setup[0x1F1] = 2
    struct.pack_into("<II", setup, 0x248, 100, len(payload))
    return bytes(setup) + bytes(100) + payload + bytes(50)


def test_decompressed() -> None:
    """The kernel is found within a bzImage."""
    assert vm.decompressed(_image(lzma.compress(b"kernel"))) == b"kernel"


def test_not_compressed_by_xz() -> None:
    """Another compression is an error that says so."""
    with pytest.raises(vm.VmError, match="not compressed by xz"):
        vm.decompressed(_image(gzip.compress(b"kernel")))
