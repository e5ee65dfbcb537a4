"""An image of nothing but busybox, made here: the tests need no registry."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BUSYBOX = Path("/bin/busybox")
NAME = "cnm.test/busybox:1"
PROGRAMS = ("cat", "hostname", "httpd", "ls", "nc", "nslookup", "sh", "sleep", "top", "wget")
SLEEP = ("/bin/busybox", "sleep", "100000")
_TYPE = "application/vnd.oci.image."


def fetching(address: str) -> tuple[str, ...]:
    """The command that asks an HTTP server for its host name."""
    host = f"[{address}]" if ":" in address else address
    return ("/bin/busybox", "wget", "-qO-", f"http://{host}/hostname")


def archive(path: Path, name: str = NAME, entrypoint: Sequence[str] = SLEEP) -> Path:
    """Write an image as an OCI archive, with what its containers do unless told else.

    Source: OCI image specification 1.0, "Image Layout".
    """
    files = {"bin/busybox": BUSYBOX.read_bytes(), "www/index.html": b"hello\n"}
    layer = _tar(files, {f"bin/{program}": "busybox" for program in PROGRAMS})
    packed = gzip.compress(layer, 1, mtime=0)
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": entrypoint, "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_TYPE}manifest.v1+json",
            "config": _described("config.v1+json", config),
            "layers": [_described("layer.v1.tar+gzip", packed)],
        }
    )
    names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    index = {
        "schemaVersion": 2,
        "manifests": [_described("manifest.v1+json", manifest) | {"annotations": names}],
    }
    blobs = {
        f"blobs/{_digest(each).replace(':', '/')}": each for each in (packed, config, manifest)
    }
    layout = _json({"imageLayoutVersion": "1.0.0"})
    path.write_bytes(_tar({"oci-layout": layout, "index.json": _json(index), **blobs}, {}))
    return path


def _described(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": _TYPE + kind, "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def _tar(files: dict[str, bytes], links: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            made.addfile(entry, io.BytesIO(content))
        for name, target in links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            made.addfile(entry)
    return buffer.getvalue()
