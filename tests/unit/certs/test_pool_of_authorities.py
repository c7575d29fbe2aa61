"""CertPool: never empty by accident."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastnode import CertificateLoadError, CertPool, SettingsFrozenError
from helpers.pki import authority


def test_from_pem_and_files(tmp_path: Path) -> None:
    one, two = authority().cert_pem, authority("Other").cert_pem
    assert len(CertPool.from_pem(one + two)) == 2
    assert len(CertPool.from_pem(one.decode())) == 1
    (tmp_path / "one.pem").write_bytes(one)
    (tmp_path / "two.pem").write_bytes(two)
    pool = CertPool.load(tmp_path / "one.pem", str(tmp_path / "two.pem"))
    assert [c.subject.rfc4514_string() for c in pool.certificates] == [
        "CN=test CA",
        "CN=Other",
    ]
    pool.add(one)
    assert len(pool) == 2


@pytest.mark.parametrize("data", [b"", b"\n\n", b"garbage", "text"])
def test_empty_or_garbage_is_an_error(data: bytes | str, tmp_path: Path) -> None:
    with pytest.raises(CertificateLoadError):
        CertPool.from_pem(data)
    file = tmp_path / "ca.pem"
    file.write_bytes(data.encode() if isinstance(data, str) else data)
    with pytest.raises(CertificateLoadError, match=r"ca\.pem"):
        CertPool.load(file)


def test_no_file_or_a_missing_one(tmp_path: Path) -> None:
    with pytest.raises(CertificateLoadError, match="no file"):
        CertPool.load()
    with pytest.raises(CertificateLoadError, match="missing"):
        CertPool.load(tmp_path / "missing.pem")


def test_one_bad_block_loses_nothing() -> None:
    pool = authority().pool()
    with pytest.raises(CertificateLoadError):
        pool.add(authority("Other").cert_pem[:-40])
    with pytest.raises(CertificateLoadError, match="without its end"):
        pool.add(authority("Other").cert_pem + authority("Third").cert_pem[:-40])
    assert len(pool) == 1


def test_system() -> None:
    pool = CertPool.system()
    assert pool.is_system
    assert "system" in repr(pool)


def test_guarantee_5_a_pool_in_use_is_fixed() -> None:
    pool = authority().pool()
    pool.freeze()
    with pytest.raises(SettingsFrozenError, match="restart"):
        pool.add(authority("Other").cert_pem)
