"""The command as a program among others: signals, pipes, completion, typing errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastnode.names import NodeName
from helpers.command import (
    ME,
    MY_FILES,
    ORDERS,
    TIMEOUT_SECONDS,
    certificates,
    check_error,
    check_words,
    command,
    ended,
    environment,
    fastnode,
    invoke,
    listening,
    me,
)
from helpers.pki import authority
from helpers.python_words import PYTHON

# Each test starts programs.
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates(tmp_path_factory.mktemp("certs"))


# --- ping ----------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [False, True], ids=["lines", "json"])
def test_ping_shows_each_round_trip_as_it_comes(as_json: bool, certs: Path) -> None:
    endless = ["--count", 0, "--interval", 0.01, *["--json"] * as_json]
    with listening(certs, "--quiet") as (_, address):
        with subprocess.Popen(
            command("ping", ORDERS, *me(certs, address), *endless),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                third = b'"number": 3,' if as_json else b"3: "
                assert process.stdout is not None
                while third not in process.stdout.readline():
                    assert process.poll() is None
                # It goes on: nothing but Ctrl-C ends it.
                status, lines, errors = ended(process, signal.SIGINT)
            finally:
                process.kill()
    assert (status, errors) == (0, "")
    count = len(lines) - 1 + 3
    summary = f'"count": {count},' if as_json else f"{count} round trips: median "
    assert summary in lines[-1]


def test_ping_interrupted_before_the_first_round_trip(certs: Path) -> None:
    """Nothing was measured, so there is no summary."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with subprocess.Popen(
            command("ping", ORDERS, *me(certs, address)),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                silent.settimeout(TIMEOUT_SECONDS)
                accepted, _ = silent.accept()
                with accepted:
                    assert accepted.recv(1)  # it has begun the handshake
                    found = ended(process, signal.SIGINT)
            finally:
                process.kill()
    assert found == (130, [], "interrupted\n")


def test_ping_says_what_it_measured_before_the_link_was_lost(certs: Path) -> None:
    with listening(certs, "--quiet") as (listener, address):
        with subprocess.Popen(
            command("ping", ORDERS, *me(certs, address), "--count", 0),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                assert process.stdout is not None
                while b"1: " not in process.stdout.readline():
                    assert process.poll() is None
                listener.kill()
                out, errors = process.communicate(timeout=TIMEOUT_SECONDS)
            finally:
                process.kill()
    assert b"round trip" in out.splitlines()[-1]
    check_words(process.returncode, errors.decode(), 1)


def test_ping_with_an_interval(certs: Path) -> None:
    with listening(certs, "--quiet") as (_, address):
        options = ["--count", 2, "--interval", "nan"]
        status, _, errors = fastnode("ping", ORDERS, *me(certs, address), *options)
    check_words(status, errors, 2, "--interval", "nan")


# --- output that nobody reads --------------------------------------------------------


def unread(*arguments: object) -> tuple[int, str]:
    """Run a command whose output has no reader; its exit code and standard error."""
    source, sink = os.pipe()
    os.close(source)
    try:
        done = subprocess.run(
            command(*arguments),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    finally:
        os.close(sink)
    return done.returncode, done.stderr.decode()


def test_a_closed_pipe_ends_the_command_quietly(certs: Path) -> None:
    with listening(certs, "--quiet") as (_, address):
        who = ["--dir", certs, "--as", ME]
        for arguments in (
            ["--help"],
            ["ca", "issue", ME, "--dir", certs, "--renew"],
            ["check", address, *who],
            ["ping", ORDERS, *me(certs, address), "--json"],
        ):
            assert unread(*arguments) == (1, ""), arguments


@pytest.mark.parametrize("name", ["ping", "--version"])
def test_standard_output_that_is_closed(name: str, certs: Path) -> None:
    """No socket gets the number of standard output."""
    with listening(certs, "--quiet") as (_, address):
        options = [ORDERS, *me(certs, address), "--count", 1]
        arguments = command(name, *(options if name == "ping" else ()))
        closing = ["sh", "-c", 'exec "$@" >&-', "sh", *arguments]
        done = subprocess.run(
            closing,
            env=environment(),
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has none")
@pytest.mark.parametrize("name", ["--version", "ca init"])
def test_a_full_disk(name: str, tmp_path: Path) -> None:
    arguments = [*name.split(), *([tmp_path] if name == "ca init" else [])]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command(*arguments),
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    check_words(done.returncode, done.stderr.decode(), 1, "No space left")


# --- completion ----------------------------------------------------------------------


def completion(instruction: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "fastnode"],
        env={**environment(), "_FASTNODE_COMPLETE": instruction, **variables},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    script = completion(f"{shell}_source")
    assert "_FASTNODE_COMPLETE" in script
    assert f"{shell}_complete" in script
    page = (Path(__file__).parents[2] / "docs/command.md").read_text()
    assert f"_FASTNODE_COMPLETE={shell}_source fastnode" in page


def test_completion_knows_commands_and_options() -> None:
    words = completion("bash_complete", COMP_WORDS="fastnode ca i", COMP_CWORD="2")
    assert words.splitlines() == ["plain,init", "plain,issue"]
    words = completion("bash_complete", COMP_WORDS="fastnode ping --j", COMP_CWORD="2")
    assert words.splitlines() == ["plain,--json"]
    nonsense = "fastnode nonsense x"
    words = completion("bash_complete", COMP_WORDS=nonsense, COMP_CWORD="2")
    assert "plain,ping" not in words


# --- typing errors -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pnig"], "Did you mean ping?"),
        (["ca", "isue"], "Did you mean issue?"),
        (["x"], "The commands are ca, call, check, demo, health, listen, ping, send"),
        (["ping", ORDERS, "--cuont", "3"], "--count"),
        (["ca", "init", "x", "--dayz", "3"], "--days"),
        (["--dir", "certs", "ping", ORDERS], "'--dir' here. Give it after the command"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_the_right_word_is_suggested(arguments: list[str], words: str) -> None:
    check_error(invoke(*arguments), 2, words)


# --- files and names -----------------------------------------------------------------


def test_a_directory_of_an_earlier_version(certs: Path, tmp_path: Path) -> None:
    """Its files are named after the node."""
    for file in certs.glob("*.pem"):
        name = file.name.replace(MY_FILES, ME)
        (tmp_path / name).write_bytes(file.read_bytes())
    with listening(certs, "--quiet") as (_, address):
        options = ["--count", 1]
        assert fastnode("ping", ORDERS, *me(tmp_path, address), *options)[0] == 0
        who = ["--dir", tmp_path, "--as", ME]
        assert invoke("check", address, *who).exit_code == 0
    before = {path.name for path in tmp_path.iterdir()}
    issue = ["ca", "issue", ME, "--dir", tmp_path]
    check_error(invoke(*issue), 2, "is not overwritten", "--renew")
    assert invoke(*issue, "--renew").exit_code == 0
    after = {path.name for path in tmp_path.iterdir()}
    assert after - before == {f"{ME}.pem.old", f"{ME}-key.pem.old"}


def test_renewing_does_not_replace_the_files_of_another_node(tmp_path: Path) -> None:
    assert invoke("ca", "init", tmp_path).exit_code == 0
    assert invoke("ca", "issue", "a_b@c", "--dir", tmp_path).exit_code == 0
    before = (tmp_path / "a_b_c.pem").read_bytes()
    issue = ["ca", "issue", "a@b_c", "--dir", tmp_path]
    check_error(invoke(*issue), 2, "is not overwritten")
    check_error(invoke(*issue, "--renew"), 2, "fastnode://a_b@c", "--out DIR")
    assert (tmp_path / "a_b_c.pem").read_bytes() == before
    # A file that nobody can read may be replaced.
    (tmp_path / "a_b_c.pem").write_text("damaged")
    assert invoke(*issue, "--renew").exit_code == 0


def test_a_certificate_does_not_outlive_its_authority(tmp_path: Path) -> None:
    assert invoke("ca", "init", tmp_path, "--days", 10).exit_code == 0
    issue = ["ca", "issue", ME, "--dir", tmp_path]
    assert invoke(*issue, "--days", 10).stderr == ""
    longer = invoke(*issue, "--days", 11.5, "--renew")
    assert longer.exit_code == 0
    assert "warning: the certificate ends with its authority" in longer.stderr


def test_an_authority_that_has_expired(tmp_path: Path) -> None:
    from datetime import UTC, datetime, timedelta

    from cryptography.hazmat.primitives.asymmetric import ec

    from fastnode.certs import signing
    from fastnode.certs.authority import Authority

    key = ec.generate_private_key(ec.SECP256R1())
    name = signing.common_name_only("old")
    now = datetime.now(UTC)
    ends = now - timedelta(days=2), now - timedelta(days=1)
    old = signing.sign(
        signing.ca_builder(name, name, key, *ends), key, key.public_key()
    )
    Authority(old, key).save(tmp_path)
    issued = invoke("ca", "issue", ME, "--dir", tmp_path)
    check_error(issued, 2, "the authority expired on", "fastnode ca init")


# --- hints ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def odd_files(certs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are not what the command reads, made by OpenSSL."""
    folder = tmp_path_factory.mktemp("odd")
    key, cert = certs / f"{MY_FILES}-key.pem", certs / f"{MY_FILES}.pem"
    for words in (
        ["pkcs8", "-topk8", "-in", key, "-passout", "pass:x", "-out", "locked.pem"],
        ["pkcs12", "-export", "-inkey", key, "-in", cert, "-passout", "pass:x",
         "-out", "pair.p12"],
        ["x509", "-in", cert, "-outform", "DER", "-out", "cert.der"],
    ):  # fmt: skip
        openssl = ["openssl", *map(str, words)]
        subprocess.run(openssl, cwd=folder, check=True, capture_output=True)
    crl = authority().crl()
    (folder / "crl.pem").write_bytes(crl + authority().cert_pem)
    other = authority("other CA").issue(NodeName.parse(ME))
    other.save(folder / "other.pem", folder / "other-key.pem")
    (folder / "ca.pem").write_bytes(authority().cert_pem)
    return folder


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--key", "{odd}/locked.pem"], 2, "takes keys without a password"),
        (["--cert", "{odd}/pair.p12"], 2, "openssl pkcs12"),
        (["--cert", "{odd}/cert.der"], 2, "openssl x509"),
        (["--ca", "{odd}/crl.pem"], 2, "reads no revocation lists"),
        (["--cert", "{odd}/other.pem", "--key", "{odd}/other-key.pem"],
         3, "trusted authorities"),
        (["--ca", "{odd}/ca.pem"], 3, "not in --ca"),
        (["--name", "other.example"], 3, "give --name, or issue it with --dns or --ip"),
        (["--as", "else@10.0.0.1"], 3, "fastnode://else@10.0.0.1"),
    ],
)  # fmt: skip
def test_hints_name_options(
    options: list[str],
    code: int,
    words: str,
    listener: str,
    certs: Path,
    odd_files: Path,
) -> None:
    own = ["--cert", certs / f"{MY_FILES}.pem", "--key", certs / f"{MY_FILES}-key.pem"]
    files = [*own, "--ca", certs / "ca.pem", "--route", listener]
    chosen = [option.format(odd=odd_files) for option in options]
    result = invoke("ping", ORDERS, *files, *chosen)
    check_error(result, code, words)
    assert not PYTHON.search(result.stderr), result.stderr


@pytest.fixture(scope="module")
def listener(certs: Path) -> Iterator[str]:
    """The address of a node whose log has no Python in it either."""
    with listening(certs, "--quiet") as (process, address):
        yield address
        _, _, log = ended(process, signal.SIGTERM)
    assert "UnknownAuthority" in log
    assert not PYTHON.search(log), log


def test_hints_of_addresses(certs: Path) -> None:
    elsewhere = ["listen", ORDERS, "--dir", certs, "--host", "192.0.2.1"]
    status, _, errors = fastnode(*elsewhere, "--port", 0)
    check_words(status, errors, 2, "give --host an address")
    assert not PYTHON.search(errors), errors
    with_port = invoke("ping", "else@127.0.0.1:1", *me(certs, "127.0.0.1:1"))
    check_error(with_port, 2, "--route HOST:PORT")
    assert not PYTHON.search(with_port.stderr), with_port.stderr
