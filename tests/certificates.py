"""Certificates for servers and clients of tests."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

#: What RFC 5280 wants in a certificate, and clients on Python 3.13 therefore do.
_CA: Final = """\
basicConstraints=critical,CA:true
keyUsage=critical,keyCertSign,cRLSign
subjectKeyIdentifier=hash
"""
_SIGNED: Final = """\
basicConstraints=critical,CA:false
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth,clientAuth
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
subjectAltName=DNS:localhost,IP:127.0.0.1
"""


def make_certificates(place: Path) -> Path:
    """Fill a directory with a CA, a server's and a client's certificate of its, and a CA that signed nothing.

    They are `ca`, `another_ca`, `server` and `client`, each a `.pem` and a `.key`; a server is localhost or 127.0.0.1.
    """

    def openssl(*arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, cwd=place, capture_output=True)

    def make(name: str, extensions: str, *signer: object) -> None:
        (place / f"{name}.ext").write_text(extensions)
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")
        openssl("req", *key, "-subj", f"/CN={name}", "-out", f"{name}.csr")
        how = ("-days", 2, "-extfile", f"{name}.ext", *signer)
        openssl("x509", "-req", "-in", f"{name}.csr", *how, "-out", f"{name}.pem")

    for name in ("ca", "another_ca"):
        make(name, _CA, "-signkey", f"{name}.key")
    for name in ("server", "client"):
        make(name, _SIGNED, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
        openssl("verify", "-x509_strict", "-purpose", f"ssl{name}", "-CAfile", "ca.pem", f"{name}.pem")
    return place
