"""The command `fastnode`: what it does, what it prints, how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, cast

import pytest

from fastnode import Certificate
from fastnode.certs.authority import Authority
from fastnode.cli import output
from fastnode.cli.main import cli
from fastnode.groups import DEFAULT_GROUPS, described_group
from fastnode.openssl.verification import why_unavailable
from helpers.command import (
    COMMANDS,
    ME,
    MY_FILES,
    ORDERS,
    ORDERS_FILES,
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


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates(tmp_path_factory.mktemp("certs"))


# --- help ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_has_help(name: str, option: str) -> None:
    result = invoke(*name.split(), option)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Usage: " in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    if name not in ("", "ca"):
        assert "Example:" in result.stdout


def test_every_command_is_tested() -> None:
    names = {""}
    for name, found in cli.commands.items():
        names.add(name)
        names |= {f"{name} {below}" for below in getattr(found, "commands", ())}
    assert names == set(COMMANDS)


def test_as_a_program() -> None:
    status, out, errors = fastnode("--version")
    assert (status, errors) == (0, "")
    assert re.match(rb"fastnode, version \d+\.\d+\.\d+\n", out)
    assert re.search(rb"\n\S+SSL [^,]+, (called directly|through ssl.MemoryBIO: )", out)
    status, out, errors = fastnode("nonsense")
    assert out == b""
    check_words(status, errors, 2, "nonsense")


# --- ca ------------------------------------------------------------------------------


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_ca_init_makes_an_authority(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "certs"
    result = invoke("ca", "init", folder, "--name", "My CA", "--days", "7")
    assert (result.exit_code, result.stderr) == (0, "")
    assert str(folder / "ca-key.pem") in result.stdout
    assert mode(folder / "ca-key.pem") == 0o600
    made = Authority.load(folder).x509
    assert "My CA" in made.subject.rfc4514_string()
    left = made.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=6.9) < left < timedelta(days=7)


def test_ca_issue_makes_a_certificate_with_the_names_asked_for(certs: Path) -> None:
    result = invoke(
        "ca", "issue", "shop@10.0.0.7", "--dir", certs, "--days", "2",
        "--dns", "shop.example", "--dns", "localhost", "--ip", "::1",
    )  # fmt: skip
    assert (result.exit_code, result.stderr) == (0, "")
    key = certs / "shop_10.0.0.7-key.pem"
    assert mode(key) == 0o600
    made = Certificate.load(certs / "shop_10.0.0.7.pem", key)
    assert list(made.sans) == [
        "fastnode://shop@10.0.0.7", "10.0.0.7", "shop.example", "localhost", "::1"
    ]  # fmt: skip
    left = made.not_valid_after - datetime.now(UTC)
    assert timedelta(days=1.9) < left < timedelta(days=2)
    assert made.fingerprint in result.stdout
    assert ", ".join(made.sans) in result.stdout


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_guarantee_7_keys_are_for_their_owner_whatever_the_umask(
    umask: int, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        assert invoke("ca", "init", tmp_path).exit_code == 0
        assert invoke("ca", "issue", ME, "--dir", tmp_path).exit_code == 0
    finally:
        os.umask(before)
    keys = sorted(path.name for path in tmp_path.glob("*-key.pem"))
    assert keys == ["ca-key.pem", f"{MY_FILES}-key.pem"]
    assert {mode(tmp_path / name) for name in keys} == {0o600}


@pytest.mark.parametrize("left", ["certificate", "key"])
def test_nothing_is_overwritten(left: str, tmp_path: Path) -> None:
    for arguments, stem in (
        (["ca", "init", tmp_path], "ca"),
        (["ca", "issue", ME, "--dir", tmp_path], MY_FILES),
    ):
        assert invoke(*arguments).exit_code == 0
        cert, key = tmp_path / f"{stem}.pem", tmp_path / f"{stem}-key.pem"
        before = {cert: cert.read_bytes(), key: key.read_bytes()}
        check_error(invoke(*arguments), 2, "exists and is not overwritten", "hint: ")
        assert {path: path.read_bytes() for path in before} == before
        # One of the two is enough to refuse, and then the other is not made.
        gone, stays = (key, cert) if left == "certificate" else (cert, key)
        gone.unlink()
        check_error(invoke(*arguments), 2, "exists and is not overwritten")
        assert stays.read_bytes() == before[stays]
        assert not gone.exists()
        gone.write_bytes(before[gone])


def test_a_certificate_is_renewed(tmp_path: Path) -> None:
    assert invoke("ca", "init", tmp_path).exit_code == 0
    issue = ["ca", "issue", ME, "--dir", tmp_path]
    assert invoke(*issue, "--renew").exit_code == 0
    cert, key = tmp_path / f"{MY_FILES}.pem", tmp_path / f"{MY_FILES}-key.pem"
    before = Certificate.load(cert, key)
    check_error(invoke(*issue), 2, "is not overwritten", "--renew", "--out DIR")
    for _ in range(2):
        assert invoke(*issue, "--renew").exit_code == 0
        after = Certificate.load(cert, key)
        assert after != before
        assert mode(key) == 0o600
        old = Certificate.load(f"{cert}.old", f"{key}.old")
        assert old == before
        assert mode(Path(f"{key}.old")) == 0o600
        before = after
    assert len(list(tmp_path.iterdir())) == 6


def test_certificates_go_elsewhere(tmp_path: Path) -> None:
    assert invoke("ca", "init", tmp_path / "ca").exit_code == 0
    issue = ["ca", "issue", ME, "--dir", tmp_path / "ca", "--out", tmp_path / "new"]
    assert invoke(*issue).exit_code == 0
    found = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert found == [f"{MY_FILES}-key.pem", f"{MY_FILES}.pem"]


def test_listen_says_once_where_and_what_only_looked(
    certs: Path, tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(
        (certs / f"{MY_FILES}.pem").read_bytes()
        + (certs / f"{MY_FILES}-key.pem").read_bytes()
    )
    alone = ["--cert", both, "--ca", certs / "ca.pem"]
    with listening(certs) as (process, address):
        assert invoke("check", address, *alone).exit_code == 0
        route = ["--route", address]
        assert fastnode("ping", ORDERS, *alone, *route, "--count", 1)[0] == 0
        status, _, errors = fastnode("ping", ORDERS, *alone, *route, "--name", "a.b")
        check_words(status, errors, 3, "give --name")
        _, _, said = ended(process, signal.SIGTERM)
    assert "listens on" not in said
    assert "INFO" in said
    assert "it only checked, and hung up (nothing is wrong)" in said
    assert "connect again" not in said
    wrong_host = "the dialer probably dialed a host that this certificate does not name"
    assert wrong_host in said
    assert "no certificate seen" not in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ca", "init"], "DIRECTORY"),
        (["ca", "init", "{file}"], "is a file"),
        (["ca", "init", "{file}/below"], "Not a directory"),
        (["ca", "init", "{certs}", "--days", "nan"], "nan"),
        (["ca", "init", "{certs}", "--days", "0"], "range"),
        (["ca", "issue", ME, "--dir", "{nowhere}"], "fastnode ca init"),
        (["ca", "issue", "me", "--dir", "{certs}"], "name@host"),
        (["ca", "issue", "../me@h", "--dir", "{certs}"], "not a node name"),
        (["ca", "issue", "a@h", "--dir", "{certs}", "--ip", "1.2"], "IP address"),
        (
            ["ca", "issue", "a@h", "--dir", "{certs}", "--dns", "\u00e9 b"],
            "is not a DNS name",
        ),
        (["ca", "issue", "a@h", "--dir", "{certs}", "--days", "nan"], "nan"),
        (["ca", "issue", "a@h", "--dir", "{certs}", "--days", "-1"], "range"),
        (["ca", "issue", "a@h", "--dir", "{certs}", "--days", "1e9"], "range"),
        (["ca", "issue", "a@h", "--dir", "{certs}", "--days", "inf"], "inf"),
        (["ca", "issue", "a@h", "--dir", "{certs}", "--dns", ""], "it is empty"),
        (
            ["ca", "issue", "a@h", "--dir", "{certs}", "--dns", "bad name"],
            "'bad name' is not a DNS name. Remedy: use letters",
        ),
        (
            ["ca", "issue", "a@h", "--dir", "{certs}", "--dns", "10.0.0.5"],
            "give an address as an IP address",
        ),
        (
            ["ca", "issue", "a@10.0.0.300", "--dir", "{certs}"],
            "'10.0.0.300' is not a DNS name",
        ),
        (["ca", "issue", "a b@h", "--dir", "{certs}"], "'a b' before the @"),
        (["ca", "issue", "a@bad name", "--dir", "{certs}"], "'bad name' is no host"),
        (["ca", "issue", "a@h", "--dir", "{certs}", "--ip", "::1%lo"], "zone"),
        (["ca", "init", "{nowhere}", "--name", ""], "is empty. Remedy: use a name"),
        (["ca", "init", "{nowhere}", "--name", " "], "is empty"),
        (["ca", "init", "{nowhere}", "--name", "x" * 65], "has 65 characters"),
        (["ca", "init", "{nowhere}", "--name", "a\nb"], "cannot be shown"),
        (["ca", "init", "{nowhere}", "--days", "1e9"], "range"),
        (["ca", "nonsense"], "nonsense"),
    ],
)
def test_ca_says_what_is_wrong(
    arguments: list[str], words: str, certs: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    places = {"file": file, "certs": certs, "nowhere": tmp_path / "nowhere"}
    before = sorted(certs.iterdir())
    result = invoke(*(argument.format(**places) for argument in arguments))
    check_error(result, 2, words)
    assert sorted(certs.iterdir()) == before
    assert not (tmp_path / "nowhere").exists()


# --- listen --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_listen_stops_gracefully(name: str, certs: Path) -> None:
    with listening(certs) as (process, address):
        status, _, errors = fastnode(
            "send", ORDERS, "print", *me(certs, address), stdin=b"hello"
        )
        assert (status, errors) == (0, f"1 message, 5 bytes sent to {ORDERS}\n")
        status, out, errors = ended(process, signal.Signals[name])
    assert (status, out) == (0, [f"{ME} -> print: hello"])
    # The log may say more of it: how the health of the node changes.
    assert "stopping" in errors.splitlines()
    assert "Traceback" not in errors


def test_listen_without_echo_answers_with_nothing(certs: Path) -> None:
    with listening(certs) as (process, address):
        found = fastnode("call", ORDERS, "x", *me(certs, address), stdin=b"hello")
        assert found == (0, b"", "")
        assert ended(process, signal.SIGINT)[:2] == (0, [f"{ME} -> x: hello"])


def test_listen_prints_what_peers_name_things_without_obeying_it(certs: Path) -> None:
    with listening(certs, "--echo") as (process, address):
        arguments = ["call", ORDERS, "a\x1b[2J\nb", *me(certs, address)]
        status, out, _ = fastnode(*arguments, stdin=b"\x1b]0;x\x07\n")
        assert (status, out) == (0, b"\x1b]0;x\x07\n")
        status, lines, errors = ended(process, signal.SIGINT)
    assert (status, lines) == (0, [rf"{ME} -> a\x1b[2J\nb: \x1b]0;x\x07\n"])
    assert "\x1b" not in errors


def test_listen_ends_when_nobody_reads_what_it_prints(certs: Path) -> None:
    with listening(certs) as (process, address):
        assert process.stdout is not None
        process.stdout.close()
        assert fastnode("send", ORDERS, "x", *me(certs, address))[0] == 0
        assert process.wait(TIMEOUT_SECONDS) == 1
        assert process.stderr is not None
        assert "BrokenPipe" not in process.stderr.read().decode()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "192.0.2.1"], "192.0.2.1"),
        (["--host", "no such host"], "no such host"),
        (["--port", "70000"], "70000"),
        (["--cert", "{nowhere}"], "No such file"),
        (["--key", "{certs}/me_127.0.0.1-key.pem"], "is not the key of"),
        (["--ca", "{certs}/ca-key.pem"], "ca-key.pem"),
    ],
)
def test_listen_says_what_is_wrong(
    options: list[str], words: str, certs: Path, tmp_path: Path
) -> None:
    places = {"certs": certs, "nowhere": tmp_path / "nowhere"}
    chosen = [option.format(**places) for option in options]
    status, out, errors = fastnode(
        "listen", ORDERS, "--dir", certs, "--port", 0, *chosen
    )
    assert out == b""
    check_words(status, errors, 2, words)


# --- send, call, ping ----------------------------------------------------------------


def test_call_from_a_file_and_from_standard_input(certs: Path, tmp_path: Path) -> None:
    payload = os.urandom(300_000)
    file = tmp_path / "payload"
    file.write_bytes(payload)
    with listening(certs, "--echo", "--quiet") as (process, address):
        who = me(certs, address)
        for source, stdin in (([file], b"not this"), (["-"], payload), ([], payload)):
            found = fastnode("call", ORDERS, "echo", *source, *who, stdin=stdin)
            assert found == (0, payload, "")
        assert ended(process, signal.SIGINT)[:2] == (0, [])


class Reader(threading.Thread):
    """Reads a pipe to its end, once the other side has found it full."""

    def __init__(self, source: int, full: threading.Event) -> None:
        super().__init__()
        self.source, self.full = source, full
        self.data = b""

    def run(self) -> None:
        assert self.full.wait(TIMEOUT_SECONDS)
        while part := os.read(self.source, 1 << 16):
            self.data += part


@pytest.mark.parametrize("buffering", [0, -1], ids=["not buffered", "buffered"])
@pytest.mark.parametrize("blocking", [True, False])
def test_output_is_written_whole(
    buffering: int, blocking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, sink = os.pipe()
    os.set_blocking(sink, blocking)
    full, waits, data = threading.Event(), 0, os.urandom(1_000_003)
    wait = output.wait_for_room

    def wait_for_room(file: IO[bytes]) -> None:
        nonlocal waits
        waits += 1
        full.set()
        wait(file)

    monkeypatch.setattr(output, "wait_for_room", wait_for_room)
    if blocking:
        full.set()
    reader = Reader(source, full)
    reader.start()
    try:
        with open(sink, "wb", buffering=buffering) as file:  # noqa: PTH123
            output.write_whole(data, cast("IO[bytes]", file))
    finally:
        full.set()
        reader.join()
        os.close(source)
    assert reader.data == data
    # It slept while there was no room: a pipe takes 64 KiB, and a page at least.
    assert waits <= len(data) // 4096
    assert blocking == (waits == 0)


def test_output_that_nobody_reads_any_more() -> None:
    source, sink = os.pipe()
    os.set_blocking(sink, False)
    with open(sink, "wb", buffering=0) as file:  # noqa: PTH123
        file.write(bytes(1 << 20))
        os.close(source)
        with pytest.raises(BrokenPipeError):
            output.write_whole(b"more", cast("IO[bytes]", file))


def test_send_cuts_large_input_into_messages(certs: Path, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"x" * 2_500_000)
    with listening(certs) as (process, address):
        who = me(certs, address)
        for source, stdin in (([file], b""), (["-"], file.read_bytes())):
            status, out, errors = fastnode(
                "send", ORDERS, "parts", *source, *who, "--chunk", 1_000_000,
                stdin=stdin,
            )  # fmt: skip
            assert (status, out) == (0, b"")
            assert errors == f"3 messages, 2500000 bytes sent to {ORDERS}\n"
        assert fastnode("send", ORDERS, "empty", *who)[0] == 0
        status, lines, _ = ended(process, signal.SIGINT)
    sizes = [re.search(r"\((\d+) bytes\)$", line) for line in lines[:-1]]
    assert [int(size[1]) for size in sizes if size] == [
        1_000_000, 1_000_000, 500_000
    ] * 2  # fmt: skip
    assert lines[-1] == f"{ME} -> empty: "


def test_ping_shows_who_it_is(certs: Path) -> None:
    with listening(certs) as (_, address):
        # Without --as, the certificate says who we are.
        files = [
            "--cert", certs / f"{MY_FILES}.pem", "--key", certs / f"{MY_FILES}-key.pem",
            "--ca", certs / "ca.pem",
        ]  # fmt: skip
        status, out, errors = fastnode(
            "ping", ORDERS, "--route", address, "--count", 3, "--interval", 0, *files
        )
        serial = Certificate.load(
            certs / f"{ORDERS_FILES}.pem", certs / f"{ORDERS_FILES}-key.pem"
        ).serial_number
    assert (status, errors) == (0, "")
    lines = out.decode().splitlines()
    assert lines[0] == f"{ORDERS} at {address}"
    assert lines[1] == f"certificate  serial {serial:x}"
    protocol = r"protocol     TLSv1.3 TLS_\w+( [\w-]+ \([a-z -]+\))?"
    group = re.fullmatch(protocol, lines[2])
    assert group is not None
    if why_unavailable() is None:
        assert group[1].strip() in map(described_group, DEFAULT_GROUPS)
    assert [line.split(":")[0] for line in lines[3:6]] == ["1", "2", "3"]
    times = r"median [\d.]+ ms, fastest [\d.]+ ms, slowest [\d.]+ ms"
    assert re.fullmatch(f"3 round trips: {times}", lines[6])
    assert len(lines) == 7


@pytest.fixture(scope="module")
def refusing(
    certs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """The address of a listener, and the folder of an authority that it does not
    know."""
    other = tmp_path_factory.mktemp("other")
    assert invoke("ca", "init", other).exit_code == 0
    assert invoke("ca", "issue", ME, "--dir", other).exit_code == 0
    with listening(certs, "--quiet") as (_, address):
        yield address, other


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        # Refused by us, by them.
        (["ping", ORDERS, "--dir", "{other}", "--as", ME], 3, "not in --ca"),
        (["ping", ORDERS, "--dir", "{other}", "--as", ME, "--ca", "{certs}/ca.pem"],
         3, "not in the acceptor's trusted authorities"),
        (["ping", "else@127.0.0.1", "--dir", "{certs}", "--as", ME], 3, "was dialed"),
        # Wrong usage, files, names.
        (["ping", ORDERS], 2, "--cert"),
        (["ping", ORDERS, "--dir", "{certs}"], 2, "--as"),
        (["ping", ORDERS, "--dir", "{certs}", "--as", "who@h"], 2, "who_h.pem"),
        (["ping", "nonsense", "--dir", "{certs}", "--as", ME], 2, "name@host"),
        # A node may be asked under the own name: it may be another instance.
        (["ping", ME, "--dir", "{certs}", "--as", ME], 3, "was dialed"),
        (["ping", ORDERS, "--dir", "{certs}", "--as", ME, "--route", "nonsense"],
         2, "HOST:PORT"),
        (["ping", ORDERS, "--dir", "{certs}", "--as", ME, "--route", "h:99999"],
         2, "99999"),
        (["ping", ORDERS, "--dir", "{certs}", "--as", ME, "--timeout", "nan"],
         2, "nan"),
        (["call", ORDERS, "x", "{other}/nofile", "--dir", "{certs}", "--as", ME],
         2, "nofile"),
        (["call", ORDERS, "x" * 256, "--dir", "{certs}", "--as", ME], 2, "255"),
        (["send", ORDERS, "", "--dir", "{certs}", "--as", ME], 2, "255"),
    ],
)  # fmt: skip
def test_failures_are_two_lines_and_an_exit_code(
    arguments: list[str], code: int, words: str, refusing: tuple[str, Path], certs: Path
) -> None:
    address, other = refusing
    chosen = [argument.format(certs=certs, other=other) for argument in arguments]
    if "--route" not in chosen:
        chosen += ["--route", address]
    status, out, errors = fastnode(*chosen)
    assert out == b""
    check_words(status, errors, code, words)


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of something that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_not_reachable(certs: Path, silent: str) -> None:
    # Bound and not listening: nobody else gets this port.
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        status, _, errors = fastnode("ping", ORDERS, *me(certs, address))
    check_words(status, errors, 4, "Connection refused")
    arguments = ["ping", ORDERS, *me(certs, silent), "--timeout", 0.5]
    status, _, errors = fastnode(*arguments)
    check_words(status, errors, 4, "0.5 s", "--timeout")


@pytest.mark.parametrize("name", ["send", "call"])
def test_silent_input_holds_up_neither_timeout_nor_ctrl_c(
    name: str, certs: Path
) -> None:
    with listening(certs) as (_, address):
        for how in ("timeout", "Ctrl-C"):
            limit = 0.5 if how == "timeout" else TIMEOUT_SECONDS
            with subprocess.Popen(
                command(name, ORDERS, "x", *me(certs, address), "--timeout", limit),
                env=environment(),
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as process:
                try:
                    if how == "Ctrl-C":
                        interrupt_when_reading(process)
                    assert process.stderr is not None
                    errors = process.stderr.read().decode()
                    status = process.wait(TIMEOUT_SECONDS)
                finally:
                    process.kill()
            if how == "timeout":
                check_words(status, errors, 4, "--timeout")
            else:
                assert (status, errors) == (130, "interrupted\n")


def interrupt_when_reading(process: subprocess.Popen[bytes]) -> None:
    """SIGINT, once what was written to its input has been read."""
    import array
    import fcntl
    import termios
    import time

    assert process.stdin is not None
    process.stdin.write(b"x")
    process.stdin.flush()
    deadline = time.monotonic() + TIMEOUT_SECONDS
    unread = array.array("i", [1])
    while unread[0]:
        assert time.monotonic() < deadline
        fcntl.ioctl(process.stdin, termios.FIONREAD, unread)
        time.sleep(0.005)  # the pipe tells nobody that it was read
    process.send_signal(signal.SIGINT)


# --- demo ----------------------------------------------------------------------------

STEPS = [
    "certificates",
    "who is who",
    "one-way messages",
    "calls, one by one",
    "calls, 64 at once",
    "rotation under traffic",
    "intruder with another CA's certificate",
    "intruder with no certificate",
]
SMALL = ("--messages", 1000, "--calls", 100)


def test_demo_as_json() -> None:
    status, out, errors = fastnode("demo", "--json", *SMALL)
    assert (status, errors) == (0, "")
    report = json.loads(out)
    assert report["ok"] is True
    assert [step["name"] for step in report["steps"]] == STEPS
    assert all(step["ok"] for step in report["steps"])
    details = {step["name"]: step["details"] for step in report["steps"]}
    assert details["one-way messages"]["received"] == 1000
    for side in ("first_sees", "second_sees"):
        seen = details["who is who"][side]
        assert seen["verified"] is True
        assert seen["tls"] == "TLSv1.3"
        assert seen["name"]
        assert seen["serial"]
        assert seen["cipher"]
        if why_unavailable() is None:
            (who,) = [s for s in report["steps"] if s["name"] == "who is who"]
            assert described_group(seen["group"]) in who["found"]


def test_demo_for_people_fits_80_columns() -> None:
    status, out, errors = fastnode("demo", *SMALL)
    assert (status, errors) == (0, "")
    lines = out.decode().splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if line != line.rstrip()]
    for step in STEPS:
        assert lines.count(f"ok {step}") == 1
        assert sum(step in line for line in lines) == 1
    assert "FAIL" not in out.decode()
    assert lines[-1] == "all 8 steps are as they should be"


def test_demo_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        command("demo", "--json", *SMALL),
        env={**environment(), "TMPDIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_demo_interrupted(tmp_path: Path) -> None:
    with subprocess.Popen(
        command("demo", "--messages", 1_000_000_000),
        env={**environment(), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            while b"who is who" not in process.stdout.readline():
                pass
            # As a terminal does it: to all processes of the group.
            os.killpg(process.pid, signal.SIGINT)
            _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
        finally:
            process.kill()
    assert (process.returncode, errors.decode()) == (130, "interrupted\n")
    assert list(tmp_path.iterdir()) == []
