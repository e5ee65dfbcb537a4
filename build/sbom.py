"""What a build is made of, as a CycloneDX document.

Nothing is listed by hand: the linker's map names the libraries in the plugins' executable, and
PyInstaller's tables name what is in the command line's directory. Each file belongs to a
Python distribution or to a Debian package, and a file of neither stops the release.
"""

import ast
import re
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

# Of Debian's source packages, as their copyright files describe what is linked or copied here.
LICENSES = {
    "bzip2": "bzip2-1.0.6",
    "expat": "MIT",
    "gcc-12": "GPL-3.0-or-later WITH GCC-exception-3.1",
    "glibc": "LGPL-2.1-or-later",
    "libffi": "MIT",
    "openssl": "Apache-2.0",
    "python3.11": "PSF-2.0",
    "sqlite3": "blessing",
    "util-linux": "BSD-3-Clause",
    "xz-utils": "LicenseRef-public-domain",
    "zlib": "Zlib",
}
# Where the metadata of a distribution does not tell in SPDX's words.
PYTHON_LICENSES = {
    "markdown-it-py": "MIT",
    "mdurl": "MIT",
    "netaddr": "BSD-3-Clause",
    "pyinstaller": "GPL-2.0-or-later WITH Bootloader-exception",
    "rich": "MIT",
}


def document(work: Path, version: str, epoch: int) -> str:
    """The document of a build whose intermediate files are in `work`.

    `epoch` is its time, in seconds: the same build gives the same document. Raises SystemExit
    if a file belongs to nothing known.
    """
    plugins = _ours("cnm-plugins", "Every plugin: one static executable by many names", version)
    command = _ours("cnm-command", "The cnm command line, and the agent", version)
    parts = {plugins: _components(linked(work)), command: _components(collected(work))}
    bom = Bom(serial_number=uuid5(NAMESPACE_URL, f"cnm {version} {epoch}"))
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, UTC)
    bom.metadata.component = _ours(
        "cnm", "Docker's Container Network Model as CNI plugins", version
    )
    bom.register_dependency(bom.metadata.component, parts)
    for whole, components in parts.items():
        bom.components.update([whole, *components])
        bom.register_dependency(whole, components)
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def linked(work: Path) -> set[Path]:
    """The archives and objects of the system that the linker took something from."""
    text = (work / "linked.map").read_text()
    members = re.findall(r"^(/\S+\.a)\(", text, re.MULTILINE)
    objects = re.findall(r"^LOAD (/\S+\.o)$", text, re.MULTILINE)
    return {Path(name).resolve() for name in (*members, *objects) if not name.startswith("/tmp/")}


def collected(work: Path) -> set[Path]:
    """The files of others that PyInstaller copied or froze for the command line."""
    names = ("PYZ", "PKG", "COLLECT")
    tables = (ast.literal_eval((work / f"{name}-00.toc").read_text()) for name in names)
    rows = [row for table in tables for part in table if isinstance(part, list) for row in part]
    root = Path(__file__).resolve().parent.parent
    ours = (work.resolve(), *(root / each for each in ("cnm_core", "plugins", "build")))
    paths = {Path(row[1]) for row in rows if row[1].startswith("/")}
    return {path for path in paths if not any(path.is_relative_to(each) for each in ours)}


def _components(paths: Iterable[Path]) -> list[Component]:
    """Who the files belong to, each once."""
    owners = {file: owner for owner in distributions() for file in _files(owner)}
    mine = {owners[path].name: owners[path] for path in paths if path in owners}
    theirs = _packages([path for path in paths if path not in owners])
    return [
        *(_python(mine[name]) for name in sorted(mine)),
        *(_debian(name, theirs[name]) for name in sorted(theirs)),
    ]


def _files(owner: Distribution) -> list[Path]:
    return [Path(str(owner.locate_file(file))) for file in owner.files or ()]


def _packages(paths: list[Path]) -> dict[str, str]:
    """The Debian source packages that files are of, each with its version."""
    # dpkg knows a file by the path that its package has, before or after /lib became /usr/lib.
    asked = {
        path: {str(path.resolve()), str(path.resolve()).removeprefix("/usr")} for path in paths
    }
    done = _output("dpkg-query", "-S", *sorted({name for each in asked.values() for name in each}))
    owner = {file: package for package, _, file in (line.partition(": ") for line in done)}
    unknown = [str(path) for path, names in asked.items() if not names & owner.keys()]
    if unknown:
        raise SystemExit(f"sbom: of no package: {' '.join(sorted(unknown))}")
    names = {owner[name] for each in asked.values() for name in each if name in owner}
    shown = _output(
        "dpkg-query", "-W", "-f", "${source:Package} ${source:Version}\n", *sorted(names)
    )
    return dict(line.split() for line in shown)


def _output(*command: str) -> list[str]:
    """The lines that a command prints; that it found no answer to some question is no failure."""
    return subprocess.run(command, stdout=-1, stderr=-3, text=True, check=False).stdout.splitlines()


def _ours(name: str, description: str, version: str) -> Component:
    return Component(
        name=name,
        version=version,
        type=ComponentType.APPLICATION,
        description=description,
        bom_ref=name,
        licenses=[LicenseFactory().make_from_string("Apache-2.0")],
    )


def _python(owner: Distribution) -> Component:
    name = owner.name.lower().replace("_", "-")
    text = PYTHON_LICENSES.get(name) or owner.metadata["License-Expression"]
    return _library(PackageURL("pypi", None, name, owner.version), text)


def _debian(source: str, version: str) -> Component:
    return _library(
        PackageURL("deb", "debian", source, version, {"arch": "source"}), LICENSES.get(source)
    )


def _library(purl: PackageURL, license_: str | None) -> Component:
    if not license_:
        raise SystemExit(f"sbom: {purl.name} has no license here: look it up, and add it")
    return Component(
        name=purl.name,
        version=purl.version,
        type=ComponentType.LIBRARY,
        purl=purl,
        bom_ref=purl.to_string(),
        licenses=[LicenseFactory().make_from_string(license_)],
    )
