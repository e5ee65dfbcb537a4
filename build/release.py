"""Packs dist/cnm for those who do not build: `make release` runs it.

From one build and one SOURCE_DATE_EPOCH come the same bytes: names are sorted, and times, owners
and modes are given. The executables stay names of one file.
"""

import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import sbom

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".build/pyinstaller/cnm"
# Debian's name of a machine, by the kernel's; Go's names, which CNI releases have, are the same.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

CONTROL = """\
Package: cnm
Version: {version}
Architecture: {architecture}
Maintainer: cnm maintainers <cnm@localhost>
Installed-Size: {size}
Depends: libc6 (>= {libc})
Recommends: nftables
Suggests: containerd, etcd-client
Section: net
Priority: optional
Description: Docker's Container Network Model as CNI plugins
 Plugins that attach containers to networks for containerd, CRI-O, podman and
 Kubernetes: bridge, macvlan, ipvlan, overlay, host, none, loopback, portmap,
 host-local and static, each a static executable in /usr/lib/cnm/bin.
 .
 No runtime looks there by itself: list the directory first in its plugin path,
 or put the plugins into /opt/cni/bin with /usr/lib/cnm/install.sh.
"""
COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: cnm

Files: *
Copyright: 2026 the authors of cnm
License: Apache-2.0
 On Debian systems the text is in /usr/share/common-licenses/Apache-2.0. What others wrote, and
 is linked or copied into the executables, is in cnm.cdx.json beside this file, with its licenses.
"""


def main(target: Path) -> None:
    """Fill the directory `target` with a release, and take away what else is in it."""
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    number, architecture = version("cnm"), ARCHITECTURES[os.uname().machine]
    name = f"cnm-{number}-linux-{architecture}"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".release.") as work:
        made, tree = Path(work) / "made", Path(work) / "cnm"
        made.mkdir()
        (made / f"{name}.cdx.json").write_text(sbom.document(WORK, number, epoch))
        unpacked(tree, made / f"{name}.cdx.json")
        pack(tree, made / f"{name}.tar.gz", epoch)
        package(tree, made, number, architecture, epoch)
        (made / "SHA256SUMS").write_text("".join(_sums(made, "sha256")))
        files = sorted(made.iterdir())
        for each in target.iterdir():
            if each.name not in {file.name for file in files}:
                each.unlink()
        for file in sorted(files, key=lambda file: file.name == "SHA256SUMS"):
            file.replace(target / file.name)


def unpacked(tree: Path, bill: Path) -> None:
    """Make the directory that the archive is of."""
    # cp keeps names of one file names of one file, which shutil does not.
    subprocess.run(["cp", "-a", ROOT / "dist/cnm", tree], check=True)
    files = {
        ROOT / "deploy/install.sh": 0o755,
        ROOT / "build/systemd/cnm-agent.service": 0o644,
        ROOT / "deploy/Dockerfile": 0o644,
        ROOT / "deploy/daemonset.yaml": 0o644,
        ROOT / "LICENSE": 0o644,
        ROOT / "CHANGELOG.md": 0o644,
        ROOT / "docs/install.md": 0o644,
    }
    for file, mode in files.items():
        shutil.copyfile(file, tree / file.name)
        (tree / file.name).chmod(mode)
    shutil.copyfile(bill, tree / "cnm.cdx.json")


def pack(tree: Path, archive: Path, epoch: int) -> None:
    """Write the archive, in which everything is below cnm/."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as made:
        for path in (tree, *sorted(tree.rglob("*"))):
            entry = made.gettarinfo(path, f"cnm/{path.relative_to(tree)}".removesuffix("/."))
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = epoch, 0, 0, "", ""
            entry.mode = _mode(path)
            if entry.isreg():
                with path.open("rb") as content:
                    made.addfile(entry, content)
            else:
                made.addfile(entry)
    archive.write_bytes(gzip.compress(buffer.getvalue(), 6, mtime=0))


def _mode(path: Path) -> int:
    if path.is_symlink():
        return 0o777
    return 0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644


def package(tree: Path, target: Path, number: str, architecture: str, epoch: int) -> None:
    """Write the Debian package: the same files, in /usr/lib/cnm and /usr/share/doc/cnm."""
    stage = tree.parent / "deb"
    home, docs, control = stage / "usr/lib/cnm", stage / "usr/share/doc/cnm", stage / "DEBIAN"
    for directory in (home.parent, docs, control, stage / "usr/bin"):
        directory.mkdir(parents=True)
    subprocess.run(["cp", "-a", tree / "lib/cnm", home], check=True)
    subprocess.run(["cp", "-a", tree / "bin", home / "bin"], check=True)
    (home / "bin/cnm").unlink()
    shutil.copy(tree / "install.sh", home)
    (stage / "usr/bin/cnm").symlink_to("../lib/cnm/cnm")
    # As install.sh does it.
    unit = (tree / "cnm-agent.service").read_text().partition("\n")[2].replace("@PREFIX@", "/usr")
    (stage / "usr/lib/systemd/system").mkdir(parents=True)
    (stage / "usr/lib/systemd/system/cnm-agent.service").write_text(unit)
    shutil.copy(tree / "cnm.cdx.json", docs)
    (docs / "copyright").write_text(COPYRIGHT)
    changes = (ROOT / "CHANGELOG.md").read_bytes()
    (docs / "changelog.gz").write_bytes(gzip.compress(changes, 9, mtime=0))
    fields = {
        "version": number,
        "architecture": architecture,
        "libc": _libc_of(home),
        "size": sum({(s := p.lstat()).st_ino: s.st_size for p in home.rglob("*")}.values()) // 1024,
    }
    (control / "control").write_text(CONTROL.format(**fields))
    content = [line for line in _sums(stage, "md5") if "  DEBIAN/" not in line]
    (control / "md5sums").write_text("".join(content))
    for path in (stage, *stage.rglob("*")):
        if not path.is_symlink():
            path.chmod(_mode(path))
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zxz", "-z2", "--build", stage, target],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
    )


def _libc_of(directory: Path) -> str:
    """The version of glibc that the executables and libraries below a directory need."""
    found = {
        tuple(map(int, match.split(b".")))
        for path in directory.rglob("*")
        if path.is_file() and (content := path.read_bytes()).startswith(b"\x7fELF")
        for match in re.findall(rb"\0GLIBC_([0-9.]+)(?=\0)", content)
    }
    return ".".join(map(str, max(found)))


def _sums(directory: Path, algorithm: str) -> Iterator[str]:
    """The checksums of all files below a directory, in lines as md5sum and sha256sum have them."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            digest = hashlib.new(algorithm, path.read_bytes(), usedforsecurity=False).hexdigest()
            yield f"{digest}  {path.relative_to(directory)}\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
