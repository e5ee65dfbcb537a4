"""What a node has been given: settings of the kernel, executables, networks' files."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cnm_core import __version__
from cnm_core.cli.conflists import SUFFIXES
from cnm_core.cli.doctor.finding import ERROR, OK, WARNING, Finding
from cnm_core.cli.plugins import find_executable
from cnm_core.cli.validate import problems_of
from cnm_core.errors import KernelRefused
from cnm_core.kernel import forwarding, sysctl
from cnm_core.kernel.netlink import Socket
from cnm_core.schema import conflist
from plugins import EXECUTABLES

# What is in each executable of ours, whatever its version.
_MARK = b"cnm_core"
_PATIENCE = 10  # seconds


def settings(versions: set[int]) -> Iterator[Finding]:
    """Settings that networks depend on; `versions` are the IP versions of their endpoints."""
    for version in forwarding.SETTING:
        yield _forwarding(version, in_use=version in versions)
    if _get("user", "max_net_namespaces") == "0":
        advice = "sysctl user.max_net_namespaces=1000"
        yield Finding("settings", "namespaces", ERROR, "none may be made", advice)
    count, limit = _get("net", "netfilter", "nf_conntrack_count"), _get("net", "nf_conntrack_max")
    if count and limit and int(count) * 10 > int(limit) * 9:
        message = f"{count} of {limit} connections are tracked; new ones are dropped beyond that"
        advice = "raise net.netfilter.nf_conntrack_max"
        yield Finding("settings", "conntrack", WARNING, message, advice)


def _forwarding(version: int, *, in_use: bool) -> Finding:
    path = forwarding.SETTING[version]
    name, value = ".".join(path), _get(*path)
    if value is None:
        return Finding("settings", name, OK, "not in this kernel: this version of IP is off")
    if value == "1":
        return Finding("settings", name, OK, "on")
    if not in_use:
        return Finding("settings", name, OK, "off; the first container behind a gateway sets it")
    message = "off, though containers have addresses: they reach nothing outside"

    def mend() -> str:
        forwarding.switch_on(Socket(), version)
        return f"set {name} to 1"

    return Finding("settings", name, ERROR, message, f"sysctl {name}=1", mend)


def _get(*path: str) -> str | None:
    try:
        return sysctl.get(*path)
    except KernelRefused:
        return None


def executables(path: tuple[str, ...]) -> Iterator[Finding]:
    """The executables of this project in the directories of CNI_PATH."""
    for name in sorted(EXECUTABLES):
        found = find_executable(name, path)
        if found is None:
            message = f"in no directory of {':'.join(path)}"
            yield Finding("plugins", name, WARNING, message, "make install puts it there")
        else:
            yield _executable(name, Path(found))


def _executable(name: str, path: Path) -> Finding:
    if not os.access(path, os.X_OK):

        def mend() -> str:
            path.chmod(path.stat().st_mode | 0o111)
            return f"made {path} executable"

        advice = f"chmod a+x {path}"
        return Finding("plugins", name, ERROR, f"{path} is not executable", advice, mend)
    if _MARK not in path.read_bytes():
        return Finding("plugins", name, OK, f"{path} is another project's")
    try:
        done = subprocess.run(
            [path], env={}, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("plugins", name, ERROR, f"{path} does not run: {error}", "install it anew")
    version = re.search(r"plugin v(\S+)", done.stderr)
    if version is None:
        message = f"{path} does not run: {done.stderr.strip() or f'exit code {done.returncode}'}"
        return Finding("plugins", name, ERROR, message, "install it anew")
    if version[1] != __version__:
        message = f"{path} is of version {version[1]}, and this cnm of {__version__}"
        return Finding("plugins", name, WARNING, message, "install both from one release")
    return Finding("plugins", name, OK, f"{path}, version {version[1]}")


def networks(directory: Path, path: tuple[str, ...]) -> Iterator[Finding]:
    """What is wrong with the files of networks, as `cnm network validate` has it."""
    try:
        paths = sorted(file for file in directory.iterdir() if file.suffix in SUFFIXES)
    except FileNotFoundError:
        paths = []
    except OSError as error:
        yield Finding("networks", str(directory), ERROR, f"cannot be listed: {error.strerror}")
        return
    for each in paths:
        if not each.is_file():  # a FIFO would be waited for, by runtimes, too
            yield Finding("networks", str(each), ERROR, "is not a file", "remove it")
    files = [str(each) for each in paths if each.is_file()]
    if not files:
        message = "there are no networks here"
        yield Finding("networks", str(directory), OK, message, "see cnm network create --help")
    problems = problems_of(files, path)
    for file in files:
        if all(name != file for name, _ in problems):
            yield Finding("networks", file, OK, "valid")
    for file, problem in problems:
        status = ERROR if problem.severity == conflist.ERROR else WARNING
        place = f"{file}:{problem.line}:{problem.column}"
        said = f"{problem.pointer}: {problem.message}" if problem.pointer else problem.message
        yield Finding("networks", place, status, said, problem.advice)
