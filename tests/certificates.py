"""Certificates for tests, by openssl's command line."""

from dataclasses import dataclass
from pathlib import Path

from tests.iproute import run


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, in PEM files."""

    certificate: Path
    key: Path


def authority(directory: Path, name: str = "authority") -> Identity:
    """An authority that signs itself."""
    made = Identity(directory / f"{name}.crt", directory / f"{name}.key")
    run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
        "-nodes", "-days", "2", "-subj", f"/CN={name}",
        "-keyout", str(made.key), "-out", str(made.certificate),
    )  # fmt: skip
    return made


def signed(
    directory: Path, by: Identity, name: str, alternatives: str, subject: str = ""
) -> Identity:
    """A certificate for alternative names such as "IP:127.0.0.1,DNS:localhost".

    Its subject has the common name `name` where no other subject is given.
    """
    made = Identity(directory / f"{name}.crt", directory / f"{name}.key")
    request, extensions = directory / f"{name}.csr", directory / f"{name}.ext"
    extensions.write_text(f"subjectAltName={alternatives}\n")
    run(
        "openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-subj", subject or f"/CN={name}", "-keyout", str(made.key), "-out", str(request),
    )  # fmt: skip
    run(
        "openssl", "x509", "-req", "-days", "2", "-in", str(request), "-extfile", str(extensions),
        "-CA", str(by.certificate), "-CAkey", str(by.key), "-out", str(made.certificate),
    )  # fmt: skip
    return made
