"""What `make release` leaves: archive, package, bill of materials, and their checksums."""

import json
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

import release as packing
from plugins import EXECUTABLES
from tests import cni

ROOT = Path(packing.__file__).parent.parent


@pytest.fixture
def archive(release: Path) -> Path:
    """The archive."""
    (found,) = release.glob("cnm-*-linux-*.tar.gz")
    return found


@pytest.fixture
def tree(archive: Path, tmp_path: Path) -> Path:
    """What is in it."""
    subprocess.run(["tar", "-xzf", archive, "-C", tmp_path], check=True, umask=0o077)
    return tmp_path / "cnm"


@pytest.fixture
def deb(release: Path) -> Path:
    """The Debian package."""
    (found,) = release.glob("cnm_*.deb")
    return found


@pytest.fixture
def bill(release: Path) -> dict[str, Any]:
    """The bill of materials."""
    (found,) = release.glob("*.cdx.json")
    return dict(json.loads(found.read_text()))


def output(*command: str | Path) -> str:
    """What a command prints, which must succeed."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def test_checksums(release: Path) -> None:
    """Each file has its checksum, and no other is named."""
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=release, check=True)
    named = {line.split("  ")[1] for line in (release / "SHA256SUMS").read_text().splitlines()}
    assert {"SHA256SUMS", *named} == {each.name for each in release.iterdir()}
    assert len(named) == 3


def test_archive_is_complete(tree: Path) -> None:
    """Whoever unpacks it has what was built, and what installs that."""
    built = ROOT / "dist/cnm"
    assert output("diff", "-rq", "--no-dereference", built / "bin", tree / "bin") == ""
    assert output("diff", "-rq", "--no-dereference", built / "lib", tree / "lib") == ""
    assert len({(tree / "bin" / name).stat().st_ino for name in EXECUTABLES}) == 1
    others = {"install.sh", "Dockerfile", "daemonset.yaml", "LICENSE", "CHANGELOG.md"}
    assert {each.name for each in tree.iterdir()} - {"bin", "lib", "cnm.cdx.json"} >= others
    assert output(tree / "bin/cnm", "--version").startswith("cnm ")


def test_archive_tells_nothing_of_its_making(archive: Path) -> None:
    """One time, no owner, names in their order, and nothing outside of one directory."""
    with tarfile.open(archive) as opened:
        entries = opened.getmembers()
    assert [each.name for each in entries] == sorted(
        (each.name for each in entries), key=lambda name: Path(name).parts
    )
    assert {(each.mtime, each.uid, each.gid, each.uname, each.gname) for each in entries} == {
        (entries[0].mtime, 0, 0, "", "")
    }
    assert all(each.name.split("/")[0] == "cnm" for each in entries)
    assert {each.mode for each in entries} == {0o644, 0o755, 0o777}
    assert archive.read_bytes()[4:8] == bytes(4), "a time in gzip's header"


def test_archive_has_the_same_bytes_again(archive: Path, tree: Path, tmp_path: Path) -> None:
    """Packed elsewhere, later, by one with another umask."""
    with tarfile.open(archive) as opened:
        epoch = int(opened.getmembers()[0].mtime)
    again = tmp_path / "again.tar.gz"
    packing.pack(tree, again, epoch)
    assert again.read_bytes() == archive.read_bytes()


def test_bill_is_valid(release: Path) -> None:
    """By the schema of CycloneDX."""
    (found,) = release.glob("*.cdx.json")
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(found.read_text())
    assert problem is None, problem


def test_bill_names_what_is_linked(bill: dict[str, Any]) -> None:
    """The libraries in the plugins' executable, in the versions of this machine."""
    components = {each["bom-ref"]: each for each in bill["components"]}
    (parts,) = (each["dependsOn"] for each in bill["dependencies"] if each["ref"] == "cnm-plugins")
    found = {components[part]["name"]: components[part]["version"] for part in parts}
    packages = ("libc6-dev", "libexpat1-dev", "libpython3.11-dev", "libssl-dev", "zlib1g-dev")
    shown = output(
        "dpkg-query",
        "-W",
        "-f",
        "${source:Package} ${source:Version}\n",
        *packages,
        "libgcc-12-dev",
    )
    assert found == dict(line.split() for line in shown.splitlines())


def test_bill_names_what_is_frozen(bill: dict[str, Any]) -> None:
    """The Python packages in the command line, as they are pinned; and all have a license."""
    pinned = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", _lock(), re.MULTILINE))
    ours = [each for each in bill["components"] if each.get("purl", "").startswith("pkg:pypi/")]
    found = {each["name"]: each["version"] for each in ours}
    assert found.items() <= pinned.items()
    assert {"click", "netaddr", "pydantic", "pydantic-core", "pyinstaller", "pyroute2"} <= set(
        found
    )
    assert not {"pytest", "hypothesis", "cyclonedx-python-lib", "mypy"} & set(found)
    assert all(each["licenses"] for each in bill["components"])


def _lock() -> str:
    return (ROOT / "requirements.lock").read_text()


def test_package(deb: Path, tmp_path: Path) -> None:
    """dpkg installs it, what it installed runs, and dpkg removes it without a trace."""
    for directory in ("info", "updates", "triggers"):
        (tmp_path / "var/lib/dpkg" / directory).mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").touch()
    dpkg = ("dpkg", f"--root={tmp_path}", "--force-depends", "--log=/dev/null")
    output(*dpkg, "--install", deb)
    plugins = tmp_path / "usr/lib/cnm/bin"
    assert {each.name for each in plugins.iterdir()} == set(EXECUTABLES)
    assert len({each.stat().st_ino for each in plugins.iterdir()}) == 1
    answer = cni.call(plugins / "bridge", "VERSION").result()
    assert answer["supportedVersions"] == list(cni.VERSIONS)
    assert output(tmp_path / "usr/bin/cnm", "--version").startswith("cnm ")
    assert output(*dpkg, "--verify", "cnm") == ""
    # As docs/install.md has it for a runtime that looks into one directory.
    script, node = tmp_path / "usr/lib/cnm/install.sh", tmp_path / "node"
    output("env", f"DESTDIR={node}", "PREFIX=", script)
    assert {each.name for each in (node / "opt/cni/bin").glob("[!.]*")} == set(EXECUTABLES)
    output("env", f"DESTDIR={node}", "PREFIX=", script, "uninstall")
    assert not [each for each in node.rglob("*") if not each.is_dir()]
    unit = (tmp_path / "usr/lib/systemd/system/cnm-agent.service").read_text()
    assert unit.startswith("[Unit]") and "ExecStart=/usr/bin/cnm agent" in unit
    output(*dpkg, "--purge", "cnm")
    left = {each.name for each in tmp_path.rglob("*") if each.is_dir() is False}
    assert not left & {*EXECUTABLES, "cnm"}
    assert not (tmp_path / "usr/lib/cnm").exists()


def test_libc_that_the_page_names(deb: Path) -> None:
    """docs/install.md says which hosts `cnm` runs on by what the build needs."""
    needs = output("dpkg-deb", "--field", deb, "Depends").strip()
    version = needs.removeprefix("libc6 (>= ").removesuffix(")")
    assert f"glibc {version} or newer" in (ROOT / "docs/install.md").read_text()


def test_package_takes_nobodys_place(deb: Path) -> None:
    """Its files are in directories of its own, so that it conflicts with no other package."""
    lines = output("dpkg-deb", "--contents", deb).splitlines()
    assert all(line.split()[1] == "root/root" for line in lines)
    files = {line.split()[5] for line in lines if not line.startswith("d")}
    unit = "./usr/lib/systemd/system/cnm-agent.service"
    mine = ("./usr/lib/cnm/", "./usr/share/doc/cnm/", "./usr/bin/cnm", unit)
    assert files and all(file.startswith(mine) for file in files)
