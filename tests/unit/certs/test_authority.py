"""The development authority."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from fastnode import CertificateLoadError, ConfigError
from fastnode.certs.authority import Authority
from fastnode.names import NodeName


def test_saved_and_loaded(tmp_path: Path) -> None:
    made = Authority.create("dev")
    made.save(tmp_path / "ca")
    key = tmp_path / "ca" / "ca-key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    loaded = Authority.load(tmp_path / "ca")
    assert loaded.cert_pem == made.cert_pem
    loaded.issue(NodeName.parse("a@b")).certificate()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    Authority.create("dev").save(tmp_path)
    before = (tmp_path / "ca-key.pem").read_bytes()
    with pytest.raises(ConfigError, match="exists"):
        Authority.create("dev").save(tmp_path)
    assert (tmp_path / "ca-key.pem").read_bytes() == before
    (tmp_path / "ca-key.pem").unlink()
    # All or nothing: the certificate that is there keeps the key from being written.
    with pytest.raises(ConfigError, match="exists"):
        Authority.create("dev").save(tmp_path)
    assert not (tmp_path / "ca-key.pem").exists()


def test_a_directory_without_or_with_damage(tmp_path: Path) -> None:
    with pytest.raises(CertificateLoadError, match=r"ca\.pem"):
        Authority.load(tmp_path)
    Authority.create("dev").save(tmp_path)
    (tmp_path / "ca-key.pem").write_text("garbage")
    with pytest.raises(CertificateLoadError, match="read"):
        Authority.load(tmp_path)


def test_certificates_cover_something() -> None:
    with pytest.raises(ConfigError, match="covers nothing"):
        Authority.create("dev").issue()
    with pytest.raises(ConfigError, match="covers nothing"):
        Authority.create("dev").issue(NodeName.parse("a@b"), uri=False, host=False)
