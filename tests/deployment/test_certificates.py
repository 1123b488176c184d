"""Provisioning: what is signed, for whom, and that no private key travels."""

from __future__ import annotations

import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import DNSName, PolicyBuilder, Store, VerificationError

from mmmed.errors import DeployError
from mmmed.pki.certificates import create_key, days_left, fingerprint, read_certificate, read_request
from mmmed.pki.kit import Kit
from server.deployment import provision as provision_module
from server.deployment.authority import Authority
from server.deployment.control import Control
from server.deployment.folder import Folder, Settings
from server.deployment.provision import Organisation, provision, renew
from server.deployment.sites import admit, read_sites, revoke

Requests = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "federation")
    provision(folder, Settings("fed.example.org"))
    return folder


def test_the_servers_certificate_holds_for_its_address_alone(folder: Folder) -> None:
    roots = x509.load_pem_x509_certificates(folder.server_ca.read_bytes())
    leaf = read_certificate(folder.certificate("server"))
    PolicyBuilder().store(Store(roots)).build_server_verifier(DNSName("fed.example.org")).verify(leaf, [])
    with pytest.raises(VerificationError):
        PolicyBuilder().store(Store(roots)).build_server_verifier(DNSName("evil.example.org")).verify(
            leaf, []
        )


def test_a_sites_certificate_names_it_and_cannot_be_a_server(folder: Folder, request_of: Requests) -> None:
    _, path = admit(folder, request_of("north"), "north")
    kit = Kit.read(path)
    certificate = x509.load_pem_x509_certificate(kit.certificate.encode())
    roots = x509.load_pem_x509_certificates(folder.ca_certificate.read_bytes())
    PolicyBuilder().store(Store(roots)).build_client_verifier().verify(certificate, [])
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [use._name for use in usage] == ["clientAuth"]
    assert certificate.subject.rfc4514_string() == "CN=north"
    assert 700 < days_left(certificate) < 731
    assert kit.address == "fed.example.org"


def test_no_private_key_travels(folder: Folder, request_of: Requests) -> None:
    request = request_of("north")
    _, kit = admit(folder, request, "north")
    secret = request.with_suffix(".key").read_text().splitlines()[1]
    for file in (request, kit, folder.sites):
        text = file.read_text()
        assert "PRIVATE" not in text
        assert secret not in text


def test_secrets_are_for_their_owner_alone(folder: Folder) -> None:
    for path in (folder.secret, folder.ca / "ca.key", folder.key("server"), folder.key("link")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_a_tampered_request_is_refused(folder: Folder, request_of: Requests) -> None:
    request = request_of("north")
    der = bytearray(x509.load_pem_x509_csr(request.read_bytes()).public_bytes(Encoding.DER))
    der[der.index(b"north")] ^= 1  # "oorth"
    request.write_bytes(x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM))
    with pytest.raises(DeployError, match="changed on its way"):
        admit(folder, request, None)
    assert read_sites(folder) == []


def test_a_request_with_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "north")])
    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())):
        csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
        (tmp_path / "r").write_bytes(csr.public_bytes(Encoding.PEM))
        with pytest.raises(DeployError, match="P-384"):
            read_request(tmp_path / "r")


@pytest.mark.parametrize("name", ["../etc", "North", "", "a b", "x" * 64, "nört"])
def test_a_request_with_a_name_that_is_no_sites_is_refused(tmp_path: Path, name: str) -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else [])
    key = ec.generate_private_key(ec.SECP384R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA384())
    (tmp_path / "r").write_bytes(csr.public_bytes(Encoding.PEM))
    with pytest.raises(DeployError, match="site name"):
        read_request(tmp_path / "r")


def test_the_same_request_again_renews_its_certificate(folder: Folder, request_of: Requests) -> None:
    request = request_of("north")
    first, _ = admit(folder, request, "north")
    second, _ = admit(folder, request, "north")
    assert (first.public_key, first.fingerprint) == (second.public_key, second.fingerprint)
    assert first.serial != second.serial
    assert read_sites(folder) == [second]
    assert second.fingerprint == fingerprint(read_request(request))


def test_a_name_and_a_key_belong_together_until_revoked(folder: Folder, request_of: Requests) -> None:
    request = request_of("north")
    admit(folder, request, "north")
    another = request_of("north", "another")
    with pytest.raises(DeployError, match="another key"):
        admit(folder, another, "north")
    with pytest.raises(DeployError, match="not of 'south'"):
        admit(folder, another, "south")
    revoke(folder, "north")
    admit(folder, another, "north")  # the hospital made a new key
    with pytest.raises(DeployError, match="revoked"):
        admit(folder, request, "north")
    with pytest.raises(DeployError, match="no site 'south'"):
        revoke(folder, "south")
    assert [(site.name, site.revoked) for site in read_sites(folder)] == [("north", False), ("north", True)]


def test_without_the_authoritys_key_nothing_is_signed_and_that_is_said(
    folder: Folder, request_of: Requests
) -> None:
    (folder.ca / "ca.key").rename(folder.ca / "away")
    with pytest.raises(DeployError, match="Bring the authority's key back"):
        admit(folder, request_of("north"), "north")
    assert read_sites(folder) == []


def test_renewing_keeps_the_key_and_the_authority(folder: Folder) -> None:
    before = read_certificate(folder.certificate("server"))
    renew(folder)
    after = read_certificate(folder.certificate("server"))
    assert fingerprint(before) == fingerprint(after)
    assert before.serial_number != after.serial_number
    assert before.issuer == after.issuer


def test_an_authority_that_ends_soon_is_renewed_and_what_it_signed_holds(
    folder: Folder, request_of: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, kit = admit(folder, request_of("north"), "north")
    old_root, site = folder.server_ca.read_bytes(), Kit.read(kit).certificate.encode()
    renew(folder)
    assert folder.server_ca.read_bytes() == old_root  # ten years are left
    monkeypatch.setattr(provision_module, "AUTHORITY_SOON", 4000)
    renew(folder)
    new_root = folder.server_ca.read_bytes()
    assert new_root == folder.ca_certificate.read_bytes() != old_root
    leaf = read_certificate(folder.certificate("server"))
    for root in (old_root, new_root):  # a site with an old kit, and nginx with the new root
        store = Store(x509.load_pem_x509_certificates(root))
        PolicyBuilder().store(store).build_server_verifier(DNSName("fed.example.org")).verify(leaf, [])
        PolicyBuilder().store(store).build_client_verifier().verify(x509.load_pem_x509_certificate(site), [])


def organisation(at: Path, host: str, days: float = 100) -> Organisation:
    """What an organisation's own authority would hand over."""
    at.mkdir()
    authority = Authority(at)
    authority.create("Hospital group")
    key = create_key(at / "server.key")
    (at / "server.crt").write_bytes(authority.issue_server(key.public_key(), [host], days))
    return Organisation(at / "server.crt", at / "server.key", at / "ca.crt")


def test_the_organisations_certificate_is_taken_if_it_fits(tmp_path: Path, request_of: Requests) -> None:
    given = organisation(tmp_path / "org", "fed.example.org")
    folder = Folder(tmp_path / "federation")
    provision(folder, Settings("fed.example.org"), given)
    assert folder.certificate("server").read_bytes() == given.certificate.read_bytes()
    assert stat.S_IMODE(folder.key("server").stat().st_mode) == 0o600
    _, kit = admit(folder, request_of("north"), None)
    assert Kit.read(kit).server_ca == given.root.read_text()
    with pytest.raises(DeployError, match="organisation's"):
        renew(folder)
    newer = organisation(tmp_path / "newer", "fed.example.org")
    renew(folder, newer)
    assert folder.certificate("server").read_bytes() == newer.certificate.read_bytes()


def test_an_organisations_certificate_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    good = organisation(tmp_path / "good", "fed.example.org")
    other = organisation(tmp_path / "other", "other.example.org")
    late = organisation(tmp_path / "late", "fed.example.org", days=-1)
    for given, why in (
        (Organisation(good.certificate, other.key, good.root), "not the key"),
        (other, "does not hold for fed.example.org"),
        (Organisation(good.certificate, good.key, other.root), "does not hold"),
        (late, "has expired"),
        (Organisation(good.root, good.key, tmp_path / "nowhere"), "cannot be read"),
    ):
        with pytest.raises(DeployError, match=why):
            provision(Folder(tmp_path / "federation"), Settings("fed.example.org"), given)
    assert not (tmp_path / "federation").exists()


def test_a_folder_in_use_is_left_alone(folder: Folder) -> None:
    before = folder.ca_certificate.read_bytes()
    with pytest.raises(DeployError, match="not empty"):
        provision(folder, Settings("fed.example.org"))
    assert folder.ca_certificate.read_bytes() == before


@pytest.mark.parametrize(
    ("field", "value"), [("address", "https://fed"), ("address", "fed:1"), ("port", 0), ("listen", "fed")]
)
def test_settings_that_make_no_sense_are_refused(field: str, value: object) -> None:
    with pytest.raises(DeployError, match=field):
        Settings(**({"address": "fed.example.org"} | {field: value}))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "site = 1", "not toml [", 'site = "a"\naddress = "b"\nport = "c"'])
def test_a_damaged_kit_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "k.kit").write_text(text)
    with pytest.raises(DeployError, match="start-up kit"):
        Kit.read(tmp_path / "k.kit")


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    create_key(tmp_path / "a.key")
    with pytest.raises(DeployError, match="never overwritten"):
        create_key(tmp_path / "a.key")


def test_an_encrypted_or_foreign_key_is_told(tmp_path: Path) -> None:
    from mmmed.pki.certificates import load_key

    key = rsa.generate_private_key(65537, 2048)
    (tmp_path / "r").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(DeployError, match="RSA"):
        load_key(tmp_path / "r")
    with pytest.raises(DeployError, match="cannot be read"):
        load_key(tmp_path / "nowhere")


def test_clocks_that_lag_a_little_accept_a_new_certificate(folder: Folder) -> None:
    begins = read_certificate(folder.certificate("server")).not_valid_before_utc
    assert datetime.now(UTC) - begins > timedelta(minutes=4)


@pytest.mark.parametrize(("free", "told"), [(4096, "the disk is full"), (10**12, "refused: 500")])
def test_a_superlink_that_cannot_write_for_a_full_disk_is_told_as_that(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, free: int, told: str
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    request = httpx.Request("POST", "https://127.0.0.1")
    control = Control(folder)
    with pytest.raises(DeployError, match=told), control._errors():
        raise httpx.HTTPStatusError("", request=request, response=httpx.Response(500, request=request))
