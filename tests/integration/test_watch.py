"""Certificate files that are followed: real files, real threads, real handshakes."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastnode import (
    CertAuthManager,
    Certificate,
    CertificateError,
    CertificateLoadError,
    CertManager,
    CertPool,
    ConfigError,
    UnknownAuthority,
    WatchUpdate,
)
from fastnode.certs import file_changes
from fastnode.certs import watch as certificate_watch
from fastnode.certs.authority import IssuedCertificate
from fastnode.names import NodeName
from helpers.nodes import WAIT_SECONDS, A, B, introduce, pair, running
from helpers.pki import authority, certificate, expired_certificate, manager, pool
from helpers.records import Records, recorded

NAME = NodeName.parse(B)
THREAD = "fastnode-certificate-watch"


def issue(**details: Any) -> IssuedCertificate:
    return authority().issue(NAME, **details)


class Files:
    """A pair, and an authority's file, in a directory."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key, self.ca = (
            folder / name for name in ("tls.crt", "tls.key", "ca.crt")
        )
        self.secrets: list[bytes] = []

    def write(self, issued: IssuedCertificate) -> int:
        """Write both; return the serial number."""
        self.write_key(issued)
        self.cert.write_bytes(issued.cert_pem)
        return issued.certificate().serial_number

    def write_key(self, issued: IssuedCertificate) -> None:
        self.secrets.append(issued.key_pem)
        self.key.write_bytes(issued.key_pem)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    made = Files(tmp_path)
    made.write(issue())
    made.ca.write_bytes(authority().cert_pem)
    return made


@pytest.fixture
def records(files: Files) -> Iterator[Records]:
    """What was logged; no key is in it, and no thread is left, at the end."""
    with recorded("fastnode.certs") as found:
        yield found
    said = "\n".join(found.texts())
    for line in b"\n".join(files.secrets).splitlines():
        assert len(line) < 30 or b"-----" in line or line.decode() not in said
    assert not [t for t in threading.enumerate() if t.name == THREAD]


@pytest.fixture(params=["told", "looked"])
def interval(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """Told by the system, and looking alone: with what interval."""
    if request.param == "told":
        if file_changes.find_watcher() is None:
            pytest.skip("fastnode[watch] is not installed")
        # So long that looking cannot be what found it.
        return 3600.0
    monkeypatch.setattr(file_changes, "find_watcher", lambda: None)
    return 0.02


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> float:
    """Nothing is looked at but by `check`."""
    monkeypatch.setattr(file_changes, "find_watcher", lambda: None)
    return 3600.0


def serial(made: CertManager) -> int:
    assert made.certificate is not None
    return made.certificate.serial_number


def authorities(made: CertManager) -> str:
    assert made.root_cas is not None
    return made.root_cas.pem


def wait_for(made: CertManager, number: int, records: Records) -> None:
    """Every update is logged after it was made."""
    records.wait(lambda: serial(made) == number)


# --- changes are seen -----------------------------------------------------------------


def test_it_is_installed_here() -> None:
    assert file_changes.find_watcher() is not None


def test_a_rewritten_pair(files: Files, records: Records, interval: float) -> None:
    made = CertManager(certificate(B))
    with made.watch(files.cert, files.key, interval=interval) as followed:
        for _ in range(3):
            wait_for(made, files.write(issue()), records)
        # By renaming, as careful writers do, and key and chain in one file.
        new = issue()
        (files.cert.parent / "new.key").write_bytes(new.key_pem)
        (files.cert.parent / "new.crt").write_bytes(new.cert_pem)
        (files.cert.parent / "new.key").rename(files.key)
        (files.cert.parent / "new.crt").rename(files.cert)
        wait_for(made, new.certificate().serial_number, records)
    assert followed.closed


def kubernetes(folder: Path, number: int, issued: IssuedCertificate) -> None:
    """Write a secret volume as the kubelet does: a new directory, and one swap."""
    version = folder / f"..2026_{number}"
    version.mkdir()
    (version / "tls.crt").write_bytes(issued.cert_pem)
    (version / "tls.key").write_bytes(issued.key_pem)
    (version / "ca.crt").write_bytes(authority().cert_pem)
    link = folder / "..data_tmp"
    link.symlink_to(version.name)
    link.rename(folder / "..data")
    for name in ("tls.crt", "tls.key", "ca.crt"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    for old in folder.glob("..2026_*"):
        if old != version:
            shutil.rmtree(old)


def test_the_swap_that_kubernetes_does(
    tmp_path: Path, files: Files, records: Records, interval: float
) -> None:
    folder = tmp_path / "secret"
    folder.mkdir()
    kubernetes(folder, 0, issue())
    made = manager(B, live_trust=True)
    with made.watch(
        folder / "tls.crt", folder / "tls.key", folder / "ca.crt", interval=interval
    ):
        for number in range(1, 5):
            new = issue()
            files.secrets.append(new.key_pem)
            kubernetes(folder, number, new)
            wait_for(made, new.certificate().serial_number, records)
    # Both files changed at once: not one wrong pair on the way.
    assert records.warnings == []


def test_the_directories_of_all_links_on_the_way(tmp_path: Path) -> None:
    kubernetes(tmp_path, 0, issue())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to(tmp_path / "..data")
    file = tmp_path / "elsewhere" / "link" / "tls.crt"
    found = set(file_changes.places([file]))
    assert found == {
        tmp_path / "elsewhere" / "link",
        tmp_path / "elsewhere",
        tmp_path,
        tmp_path / "..2026_0",
    }
    assert file_changes.places([tmp_path / "nowhere" / "tls.crt"]) == {}
    (tmp_path / "loop").symlink_to("loop")
    assert file_changes.places([tmp_path / "loop"])


def test_a_vanished_file_and_directory_recover(
    tmp_path: Path, files: Files, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = CertManager(certificate(B))
    folder = tmp_path / "gone"
    folder.mkdir()
    inside = Files(folder)
    inside.write(issue())
    with made.watch(inside.cert, inside.key, interval=0.05):
        before = serial(made)
        inside.cert.unlink()
        records.wait(lambda: len(records.warnings) == 1)
        assert "tls.crt: No such file" in records.warnings[0]
        wait_for(made, inside.write(issue()), records)
        shutil.rmtree(folder)
        records.wait(lambda: len(records.warnings) > 1)
        folder.mkdir()
        number = inside.write(issue())
        wait_for(made, number, records)
        assert number != before
    files.secrets += inside.secrets


def test_where_the_system_does_not_tell(
    files: Files, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*paths: object, **options: object) -> Iterator[object]:
        raise OSError("inotify watch limit reached")
        yield

    monkeypatch.setattr(file_changes, "find_watcher", lambda: refuses)
    made = CertManager(certificate(B))
    with made.watch(files.cert, files.key, interval=0.02):
        wait_for(made, files.write(issue()), records)
        wait_for(made, files.write(issue()), records)
    assert len([w for w in records.warnings if "watch limit" in w]) == 1


# --- what is not taken ----------------------------------------------------------------


@pytest.mark.parametrize("first", ["key", "certificate"])
def test_one_before_the_other(
    files: Files, records: Records, slowly: float, first: str
) -> None:
    made = CertManager(certificate(B))
    with made.watch(files.cert, files.key, interval=slowly) as followed:
        old, new = serial(made), issue()
        if first == "key":
            files.write_key(new)
        else:
            files.cert.write_bytes(new.cert_pem)
        for _ in range(3):
            assert not followed.check()
        assert serial(made) == old
        assert len(records.warnings) == 1
        assert "tls.key is not the key of" in records.warnings[0]
        assert "in use stays" in records.warnings[0]
        files.write(new)
        assert followed.check()
        assert serial(made) == new.certificate().serial_number
        assert not followed.check()
    assert len(records.warnings) == 1


def test_one_warning_for_each_bad_content(
    files: Files, records: Records, slowly: float
) -> None:
    made = CertManager(certificate(B))
    with made.watch(files.cert, files.key, interval=slowly) as followed:
        old, good = serial(made), issue()
        shown = [t for t in records.texts() if "certificate loaded" in t]
        expired = expired_certificate(B)
        expired_key, expired_pem = expired._key_pem, chain_pem(expired)
        files.secrets.append(expired_key)
        bad: list[tuple[bytes, bytes, str]] = [
            (good.cert_pem[:200], good.key_pem, "damaged or cut"),
            (b"", good.key_pem, "BEGIN CERTIFICATE"),
            (good.cert_pem, good.key_pem[:100], "written to its end"),
            (good.cert_pem, b"", "PRIVATE KEY"),
            (good.cert_pem, issue().key_pem, "is not the key"),
            (expired_pem, expired_key, "expired on"),
            (b"garbage", b"garbage", "BEGIN CERTIFICATE"),
            (good.key_pem, good.cert_pem, "swapped"),
        ]
        for number, (cert, key, cause) in enumerate(bad * 2):
            files.cert.write_bytes(cert)
            files.key.write_bytes(key)
            assert not followed.check()
            assert not followed.check()
            assert len(records.warnings) == min(number + 1, len(bad))
            if number < len(bad):
                assert cause in records.warnings[-1]
        assert serial(made) == old
        files.write(good)
        assert followed.check()
        assert serial(made) == good.certificate().serial_number
        # Once it was good, the same fault is news again.
        files.cert.write_bytes(b"garbage")
        followed.check()
        assert len(records.warnings) == len(bad) + 1
        # And as before again: nothing to do.
        files.cert.write_bytes(good.cert_pem)
        assert not followed.check()
        assert "as before again" in records.texts()[-1]
    assert (
        len([t for t in records.texts() if "certificate loaded" in t]) == len(shown) + 1
    )


def chain_pem(cert: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return b"".join(each.public_bytes(Encoding.PEM) for each in cert.chain)


def test_unchanged_content_is_no_update(
    files: Files, records: Records, slowly: float
) -> None:
    made = CertManager(Certificate.load(files.cert, files.key))
    context = made.server_context()
    with made.watch(files.cert, files.key, interval=slowly) as followed:
        files.cert.touch()
        files.key.write_bytes(files.key.read_bytes())
        assert not followed.check()
        # Other bytes, the same certificate.
        files.cert.write_bytes(b"# a comment\n" + files.cert.read_bytes())
        assert not followed.check()
    assert made.server_context() is context
    assert not [text for text in records.texts() if "replaced" in text]


def test_the_thread_outlives_every_error(
    files: Files, records: Records, interval: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Moody(CertManager):
        fails = False

        def update(self, certificate: Certificate) -> None:
            if self.fails:
                self.fails = False
                raise RuntimeError("PRIVATE KEY: what a library might quote")
            super().update(certificate)

    monkeypatch.setattr(certificate_watch, "RETRY_SECONDS", 0.0)
    made = Moody(certificate(B))
    with made.watch(files.cert, files.key, interval=interval) as followed:
        wait_for(made, files.write(issue()), records)
        made.fails = True
        number = files.write(issue())
        records.wait(lambda: any("RuntimeError" in w for w in records.warnings))
        assert not any("quote" in text for text in records.texts())
        # What failed for no fault of the files is tried again.
        followed.check()
        assert serial(made) == number
        wait_for(made, files.write(issue()), records)


def test_a_password_is_asked_for_when_there_is_something_to_open(
    files: Files, records: Records, slowly: float
) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    def both(issued: IssuedCertificate) -> bytes:
        key = load_pem_private_key(issued.key_pem, None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"geheim")
        )
        return key + issued.cert_pem

    asked = []

    def ask() -> str:
        asked.append(1)
        if len(asked) == 2:
            raise OSError("the vault is closed")
        return "geheim"

    one = files.cert.parent / "one.pem"
    one.write_bytes(both(issue()))
    made = CertAuthManager(None)
    with made.watch(one, password=ask, interval=slowly) as followed:
        assert followed.files == (one,)
        assert len(asked) == 1
        new = issue()
        one.write_bytes(both(new))
        for _ in range(3):
            assert not followed.check()
        assert len(asked) == 2
        assert "password failed" in records.warnings[-1]
        one.write_bytes(both(new) + b"\n")
        assert followed.check()
        assert serial(made) == new.certificate().serial_number
        assert len(asked) == 3


# --- beginning and ending -------------------------------------------------------------


def test_bad_files_at_the_start_raise_and_nothing_is_watched(
    files: Files, records: Records
) -> None:
    made = manager(B, live_trust=True)
    before = made.certificate, made.client_cas, made.root_cas
    for file, data, cause in (
        (files.key, b"garbage", "tls.key"),
        (files.key, issue().key_pem, "not the key"),
        (files.ca, b"garbage", "ca.crt"),
        (files.ca, b"", "ca.crt"),
    ):
        good = file.read_bytes()
        file.write_bytes(data)
        with pytest.raises(CertificateLoadError, match=cause):
            made.watch(files.cert, files.key, files.ca)
        file.write_bytes(good)
    files.ca.unlink()
    with pytest.raises(CertificateLoadError, match=r"ca\.crt: No such file"):
        made.watch(files.cert, files.key, files.ca)
    expired = expired_certificate(B)
    files.cert.write_bytes(chain_pem(expired))
    files.key.write_bytes(expired._key_pem)
    with pytest.raises(CertificateError, match="expired"):
        made.watch(files.cert, files.key)
    assert (made.certificate, made.client_cas, made.root_cas) == before


def test_settings_that_cannot_be(files: Files, records: Records) -> None:
    fixed = manager(B)
    with pytest.raises(ConfigError, match="ca_file") as caught:
        fixed.watch(files.cert, files.key, files.ca)
    assert "live_trust=True" in (caught.value.hint or "")
    wrong: list[Any] = [0, -1, float("nan"), float("inf"), "1", True, None]
    for interval in wrong:
        with pytest.raises(ConfigError, match="interval"):
            fixed.watch(files.cert, files.key, interval=interval)


def test_a_manager_without_certificate_is_filled(
    files: Files, records: Records
) -> None:
    made = CertAuthManager(None, live_trust=True)
    followed = made.watch(files.cert, files.key, files.ca)
    assert serial(made) == Certificate.load(files.cert, files.key).serial_number
    assert made.client_cas is not None
    assert made.root_cas is not None
    assert "tls.crt" in repr(followed)
    followed.close()
    followed.close()
    assert followed.closed
    old = serial(made)
    files.write(issue())
    assert not followed.check()
    assert serial(made) == old


@pytest.mark.parametrize("how", ["told", "looked"])
def test_a_process_that_ends_ends_well(files: Files, how: str) -> None:
    script = f"""
import sys
from fastnode import CertAuthManager
from fastnode.certs import file_changes
if {how == "looked"}:
    file_changes.find_watcher = lambda: None
manager = CertAuthManager(None)
manager.watch({str(files.cert)!r}, {str(files.key)!r}, interval=0.01)
print(manager.certificate.serial_number)
"""
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            timeout=WAIT_SECONDS,
            check=True,
            text=True,
        )
        assert done.stdout.strip().isdigit()
        assert done.stderr == ""


# --- trust ----------------------------------------------------------------------------


def test_trust_goes_first_and_keeps_what_was_revoked(
    files: Files, records: Records, slowly: float
) -> None:
    made = manager(B, live_trust=True)
    held = CertPool.from_pem(authority().cert_pem)
    held.add_crl(authority().crl([7]))
    made.client_cas = held
    both = CertPool.from_pem(authority().cert_pem + authority("new CA").cert_pem)
    with made.watch(files.cert, files.key, files.ca, interval=slowly) as followed:
        made.freeze()
        assert made.client_cas is held  # the same authorities: nothing to replace
        new = authority("new CA").issue(NAME)
        files.ca.write_text(both.pem)
        files.write(new)
        seen = len(records.all)
        assert followed.check()
        said = [text for text in records.texts()[seen:] if "replaced" in text]
        assert "client_cas and root_cas" in said[0]
        assert "certificate replaced" in said[1]
        assert made.client_cas is not None
        assert made.root_cas is not None
        assert made.client_cas.pem == made.root_cas.pem == both.pem
        assert made.client_cas.crls == held.crls
        assert made.root_cas.crls == ()
        # Half-written: the old trust stays, and the pair is taken all the same.
        files.ca.write_text(both.pem[:-50])
        number = files.write(issue())
        assert followed.check()
        assert serial(made) == number
        assert made.client_cas.pem == both.pem
        assert "the trust in use stays" in records.warnings[-1]
    assert len(records.warnings) == 1


# --- on_update ------------------------------------------------------------------------


def test_on_update_is_told_what_is_in_use(
    files: Files, records: Records, slowly: float
) -> None:
    made = manager(B, live_trust=True)
    told: list[tuple[WatchUpdate, int]] = []

    def on_update(update: WatchUpdate) -> None:
        told.append((update, serial(made)))

    with made.watch(
        files.cert, files.key, files.ca, interval=slowly, on_update=on_update
    ) as followed:
        assert not followed.check()
        assert told == []
        number = files.write(issue())
        assert followed.check()
        assert not followed.check()
        assert told == [
            (WatchUpdate(made.certificate, False, (files.cert, files.key)), number)
        ]
        files.ca.write_text(authority().pool().pem + authority("new CA").pool().pem)
        assert followed.check()
        assert told[1:] == [(WatchUpdate(None, True, (files.ca,)), number)]
        files.ca.write_bytes(authority("new CA").cert_pem)
        number = files.write(authority("new CA").issue(NAME))
        assert followed.check()
        paths = (files.ca, files.cert, files.key)
        assert told[2:] == [(WatchUpdate(made.certificate, True, paths), number)]
        # Nothing is told of what is not taken.
        files.cert.write_bytes(b"half a certificate")
        assert not followed.check()
        assert len(told) == 3
    assert len(records.warnings) == 1


def test_on_update_that_raises_stops_nothing(
    files: Files, records: Records, interval: float
) -> None:
    made = CertManager(certificate(B))
    told: list[WatchUpdate] = []

    def broken(update: WatchUpdate) -> None:
        told.append(update)
        raise (RuntimeError, SystemExit)[len(told) % 2]

    with made.watch(files.cert, files.key, interval=interval, on_update=broken):
        for turn in range(3):
            number = files.write(issue())
            wait_for(made, number, records)
            records.wait(lambda turn=turn: len(told) > turn)  # type: ignore[misc]
    errors = [r for r in records.all if r.levelname == "ERROR"]
    assert [vars(r)["event"] for r in errors] == ["hook_failed"] * 3
    assert {vars(r)["hook"] for r in errors} == {"on_update"}


def test_on_update_may_close_the_watch_and_look_again(
    files: Files, records: Records, slowly: float
) -> None:
    made = CertManager(certificate(B))
    seen: list[bool] = []

    def on_update(_: WatchUpdate) -> None:
        seen.append(followed.check())
        followed.close()

    followed = made.watch(files.cert, files.key, interval=slowly, on_update=on_update)
    files.write(issue())
    assert followed.check()
    assert seen == [False]
    assert followed.closed
    assert records.warnings == []


def test_ctrl_c_in_on_update_ends_the_program(
    files: Files, records: Records, slowly: float
) -> None:
    """It comes in the main thread, where `check` is called there."""
    made = CertManager(certificate(B))

    def on_update(_: WatchUpdate) -> None:
        raise KeyboardInterrupt

    with made.watch(
        files.cert, files.key, interval=slowly, on_update=on_update
    ) as followed:
        number = files.write(issue())
        with pytest.raises(KeyboardInterrupt):
            followed.check()
        assert serial(made) == number
        assert not followed.check()


async def _later(_: WatchUpdate) -> None: ...


@pytest.mark.parametrize("value", [7, "x", _later])
def test_an_on_update_that_cannot_be_called(value: Any, files: Files) -> None:
    with pytest.raises(ConfigError, match="on_update") as caught:
        CertManager(certificate(B)).watch(files.cert, files.key, on_update=value)
    assert caught.value.hint
    assert not [t for t in threading.enumerate() if t.name == THREAD]


# --- nodes ----------------------------------------------------------------------------


async def test_the_next_handshake_shows_the_new_one(
    files: Files, records: Records, interval: float
) -> None:
    watched = CertAuthManager(None, client_auth=manager(B).client_auth, live_trust=True)
    with watched.watch(files.cert, files.key, files.ca, interval=interval):
        async with pair(second={"manager": watched}) as (a, b):
            b.handler("e")(lambda m: m.payload)
            old = await a.connect(B)
            number = files.write(issue())
            await asyncio.to_thread(wait_for, watched, number, records)
            # A whole new authority, by files alone.
            new = authority("new CA").issue(NAME)
            files.ca.write_bytes(authority("new CA").cert_pem)
            number = files.write(new)
            await asyncio.to_thread(wait_for, watched, number, records)
            await asyncio.to_thread(
                records.wait, lambda: authorities(watched) == pool("new CA").pem
            )
            moved = manager("gamma@127.0.0.1", trusts="new CA", shows=certificate(
                "gamma@127.0.0.1", "new CA"))  # fmt: skip
            async with running("gamma@127.0.0.1", manager=moved) as c:
                introduce(c, b)
                link = await c.connect(B)
                assert link.peer.certificate is not None
                assert link.peer.certificate.serial_number == number
            async with running(f"late-{A}") as late:
                introduce(late, b)
                with pytest.raises(UnknownAuthority):
                    await late.connect(B)
            # The link that was up lives on.
            assert await old.call("e", b"on") == b"on"
