"""Keys of a cluster: who has a pair that its authority has signed may do everything in it, and nobody else anything.

Owns a directory that one machine makes and the others get a part of::

    ca.pem  ca.key                the authority; `ca.key` signs further pairs and stays where it is
    scheduler.pem  scheduler.key  a pair for each kind of member
    worker.pem     worker.key
    client.pem     client.key     for `matrix`
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed import Security

from splvm.errors import SetupError, UsageError

MEMBERS = ("scheduler", "worker", "client")
DAYS = 3650
# It has no types.
_SECURITY: Any = Security


def make_keys(directory: Path) -> None:
    """Make an authority, and a pair for each kind of member, in a directory that only its owner can enter.

    :raises UsageError: when there is something in it already.
    :raises SetupError: when it cannot be written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise UsageError(
                f"{directory}: it is there and not an empty directory", hint="name a directory that is new or empty"
            )
        directory.chmod(0o700)
        authority = ec.generate_private_key(ec.SECP256R1())
        # It signs itself.
        issuer = _certify("ca", authority, None, authority)
        _write_pair(directory, "ca", issuer, authority)
        for member in MEMBERS:
            key = ec.generate_private_key(ec.SECP256R1())
            _write_pair(directory, member, _certify(member, key, issuer, authority), key)
    except OSError as error:
        raise SetupError(f"{error.filename or directory}: {error.strerror}") from error


def find_security(directory: Path | None, member: str) -> Any:
    """What Dask takes: the keys of a member; without a directory those that Dask's own configuration names.

    :raises UsageError: when they are not in it.
    """
    if directory is None:
        return None
    files = {
        "tls_ca_file": directory / "ca.pem",
        f"tls_{member}_cert": directory / f"{member}.pem",
        f"tls_{member}_key": directory / f"{member}.key",
    }
    for path in files.values():
        if not path.is_file():
            raise UsageError(f"--keys {directory}: there is no {path.name}", hint="`splvm cluster keys DIR` makes them")
    return _SECURITY(require_encryption=True, **{name: str(path) for name, path in files.items()})


def _certify(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Certificate | None, signer: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"splvm cluster {name}")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks of machines differ.
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=DAYS))
        .add_extension(
            x509.BasicConstraints(ca=issuer is None, path_length=0 if issuer is None else None), critical=True
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if issuer is None:
        usage = {"key_cert_sign": True, "crl_sign": True, "digital_signature": False}
    else:
        usage = {"key_cert_sign": False, "crl_sign": False, "digital_signature": True}
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    unused = dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
    return builder.add_extension(x509.KeyUsage(**usage, **unused), critical=True).sign(signer, hashes.SHA256())


def _write_pair(directory: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for path, content in (
        (directory / f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM)),
        (directory / f"{name}.key", private),
    ):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
