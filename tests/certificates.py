"""Certificates for servers and clients of tests."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_certificates(place: Path) -> Path:
    """Fill a directory with a CA, a server's and a client's certificate of its, and a CA that signed nothing.

    They are `ca`, `another_ca`, `server` and `client`, each a `.pem` and a `.key`; a server is localhost or 127.0.0.1.
    """

    def openssl(*arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, cwd=place, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("ca", "another_ca"):
        openssl(
            "req", "-x509", *key, "-days", 2, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem"
        )
    (place / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl("req", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", 2, "-extfile", "names")
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    return place
