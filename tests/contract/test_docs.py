"""What the documents say of tests, files, numbers and bytes is true."""

from __future__ import annotations

import ast
import dataclasses
import re
import struct
from functools import cache
from pathlib import Path

import pytest

import fastnode
from contract.test_layers import RANKS, SAME, SOURCES, imported_modules, unit_of
from fastnode import (
    AcceptorOptions,
    ClientAuth,
    CloseReason,
    ConfigError,
    FastnodeError,
    NetworkOptions,
    NodeOptions,
    limits,
)
from fastnode.buffers.pool import BufferPool
from fastnode.errors import refusal_from_wire
from fastnode.link.machine import FRAMES, State
from fastnode.loggers import LOGGERS
from fastnode.names import NodeName
from fastnode.node.stats import is_total
from fastnode.wire.decoder import Decoder, Frame
from fastnode.wire.encoder import Encoder
from fastnode.wire.goodbye import encode_goodbye
from fastnode.wire.hello import Hello
from fastnode.wire.kinds import KINDS
from helpers import frames
from helpers.documents import section, table
from soak import judges

ROOT = Path(__file__).parents[2]
WIRE = (ROOT / "docs/wire-format.md").read_text()
CONCEPTS = (ROOT / "docs/concepts.md").read_text()
ERRORS = (ROOT / "docs/errors.md").read_text()
GUARANTEES = (ROOT / "docs/guarantees.md").read_text()
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))

#: To a file, or to a place in one; not to another site.
LINK = re.compile(r"\[[^\]]*\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")


# --- links --------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """What a heading is called in a link."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        path = page.parent / target if target else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(path), f"{page.name}: #{anchor}"


def test_links_are_found() -> None:
    text = "[a](b.md) [c](https://d/e) [f](g/h.md#i-j) [k](#l)"
    assert LINK.findall(text) == [("b.md", ""), ("g/h.md", "i-j"), ("", "l")]


# --- guarantees ----------------------------------------------------------------------

NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")


@cache
def tree_of(file: str) -> ast.Module:
    return ast.parse((ROOT / "tests" / file).read_text())


@cache
def defined_in(file: str) -> frozenset[str]:
    tree = tree_of(file)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, kinds))


def guarantees() -> list[tuple[int, str]]:
    """Number and text of each."""
    _, *found = re.split(r"^## (\d+)\. ", GUARANTEES, flags=re.MULTILINE)
    return list(zip(map(int, found[::2]), found[1::2], strict=True))


def test_there_are_eleven_guarantees() -> None:
    assert [number for number, _ in guarantees()] == list(range(1, 12))


@pytest.mark.parametrize(("number", "text"), guarantees())
def test_a_guarantee_names_tests_that_exist(number: int, text: str) -> None:
    named = NAMED.findall(text)
    assert named
    for file, test in named:
        assert test in defined_in(file), f"guarantee {number}: {file}::{test}"


def test_tests_that_name_a_guarantee_are_named_there() -> None:
    said = {number: set(NAMED.findall(text)) for number, text in guarantees()}
    missing = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        file = path.relative_to(ROOT / "tests").as_posix()
        for test in sorted(defined_in(file)):
            of = re.match(r"test_guarantee_(\d+)_", test)
            if of and (file, test) not in said[int(of[1])]:
                missing.append(f"{of[1]}: {file}::{test}")
    assert not missing, "not in docs/guarantees.md: " + ", ".join(missing)


def test_no_guarantee_depends_on_a_long_test() -> None:
    """The commands of README.md and CONTRIBUTING.md leave those out."""
    named = set(NAMED.findall(GUARANTEES))
    assert named
    for file, test in sorted(named):
        tree = tree_of(file)
        marks = [
            ast.unparse(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "pytestmark"
        ]
        for node in tree.body:
            if getattr(node, "name", None) == test:
                marks += map(ast.unparse, getattr(node, "decorator_list", ()))
        assert "mark.long" not in " ".join(marks), f"{file}::{test}"


# --- errors --------------------------------------------------------------------------


def test_every_error_is_explained() -> None:
    public = {
        name: cls
        for name in fastnode.__all__
        if isinstance(cls := getattr(fastnode, name), type)
        and issubclass(cls, FastnodeError)
        and cls is not FastnodeError
    }
    rows = {row[0].strip("`"): row for row in table(ERRORS, "error")}
    assert set(rows) == set(public)
    for name, row in rows.items():
        bases = {base.__name__ for base in public[name].__mro__}
        for base in re.findall(r"`(\w+)`", row[1]):
            assert base in bases, f"{name} is no {base}"
        assert row[4], f"{name}: when?"
        assert row[5], f"{name}: what to do?"


@pytest.mark.parametrize("row", table(ERRORS, "error"), ids=lambda row: row[0])
def test_code_and_begun_of_an_error(row: list[str]) -> None:
    cls = getattr(fastnode, row[0].strip("`"))
    if cls is fastnode.CallError:
        assert row[2] == "chosen by the handler"
    else:
        assert row[2].startswith(f"`{cls.code}`")
    assert row[3].startswith(f"`{cls.begun}`")


def test_attributes_of_errors() -> None:
    for row in table(ERRORS, "attribute"):
        assert hasattr(FastnodeError("message"), row[0].strip("`"))


# --- concepts ------------------------------------------------------------------------


def test_modes_that_are_available() -> None:
    rows = {row[0].split("`")[1]: row[-1] for row in table(CONCEPTS, "value")}
    assert set(rows) == {mode.name for mode in ClientAuth}
    for mode in ClientAuth:
        try:
            fastnode.CertAuthManager(None, client_auth=mode)
            available = "yes"
        except ConfigError:
            available = "no"
        assert rows[mode.name].startswith(available)


def test_marks_of_the_queue() -> None:
    defaults = {row[0].strip("`"): row[1] for row in table(CONCEPTS, "option")}
    network = fastnode.NetworkOptions()
    for name, text in defaults.items():
        number, unit = text.split()
        size = {"KiB": limits.KIB, "MiB": limits.MIB}[unit]
        assert getattr(network, name) == int(number) * size


def test_every_logger_is_listed() -> None:
    page = (ROOT / "docs/logging.md").read_text()
    assert [row[0].strip("`") for row in table(page, "logger")] == list(LOGGERS)


# --- the wire format -----------------------------------------------------------------


def answer(kind: int, length: int, *, flags: int = 0) -> str:
    """What the decoder says of a header; "" if it wants the body."""
    decoder = Decoder(BufferPool())
    try:
        decoder.feed(struct.pack(">BBHI", kind, flags, 0, length))
    except fastnode.ProtocolError as error:
        return str(error)
    finally:
        decoder.close()
    return ""


@pytest.mark.parametrize("row", table(WIRE, "kind"), ids=lambda row: row[1])
def test_bodies(row: list[str]) -> None:
    kind = int(row[0])
    least, most = row[5].split(" to ")
    largest = limits.MAX_FRAME_BYTES - 8 if most == "payload" else int(most)
    bounds = {int(least) - 1: False, largest + 1: False}
    if row[1] != "CONTINUE":  # nothing to continue here
        bounds |= {int(least): True, largest: True}
    for length, good in bounds.items():
        if length >= 0:
            assert (answer(kind, length) == "") is good, length
    bits = {"`MORE`": 1, "lane": 4, "`NESTED`": 16, "`EXTENDED`": 32}
    for flags in (1, 2, 4, 10, 16, 32, 0x80):
        told = answer(kind, 16, flags=flags)
        allowed = any(name in row[4] and flags == bit for name, bit in bits.items())
        assert ("flags" in told) is not allowed, flags


def test_states() -> None:
    said = {
        row[0]: frozenset(int(kind) for kind in re.findall(r"\d+", row[2]))
        for row in table(WIRE, "state")
    }
    assert said == {state.name: FRAMES[state] for state in State}
    assert set().union(*FRAMES.values()) == {kind.number for kind in KINDS}


def test_codes() -> None:
    source = (ROOT / "src/fastnode/wire/call_error.py").read_text()
    errors = table(section(WIRE, "ERROR (7)"), "code")
    assert {row[1]: row[0] for row in errors} == dict(
        re.findall(r"^([A-Z_]+): Final = (\d+)$", source, re.MULTILINE)
    )
    goodbyes = table(section(WIRE, "GOODBYE (13)"), "code")
    assert {row[1]: int(row[0]) for row in goodbyes} == {
        reason.name: reason.value for reason in CloseReason
    }
    for code, *_ in goodbyes:
        assert isinstance(refusal_from_wire(int(code), ""), FastnodeError)


def numbers(text: str) -> set[int]:
    return {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", text)}


def test_limits() -> None:
    rows = {row[0]: numbers(row[1]) for row in table(WIRE, "what")}
    assert rows == {
        "frame, header included": {limits.MAX_FRAME_BYTES},
        "body before the link is up": {limits.MAX_HELLO_BYTES},
        "payload of a message, call or reply": {limits.DEFAULT_MAX_MESSAGE_BYTES},
        "node name": {limits.MAX_NODE_NAME_BYTES},
        "endpoint name": {1, limits.MAX_ENDPOINT_NAME_BYTES},
        "extension block": {limits.MAX_EXTENSION_BYTES},
        "metadata": {limits.MAX_METADATA_ENTRIES, limits.MAX_METADATA_BYTES},
        "details of an error": {limits.MAX_DETAILS_BYTES},
        "endpoint dictionary": {limits.ENDPOINT_DICTIONARY_SIZE},
        "each text of ERROR and GOODBYE": {limits.MAX_REASON_BYTES},
        "window": {limits.WINDOW_BYTES},
        "window of bulk and bulk reply, at first": {limits.BULK_WINDOW_BYTES},
        "credit": {limits.WINDOW_LIMIT_BYTES},
    }


def test_offsets_of_hello() -> None:
    rows = table(section(WIRE, "HELLO (1)"), "offset")
    at = 0
    for offset, size, *_ in rows[:-2]:
        assert int(offset) == at
        at += int(size)
    assert rows[-2][:3] == [str(at), "name_size", "name"]
    name = NodeName.parse("a@b")
    hello = Hello(name, bytes(16), 1, 1 << 14, 1 << 16, 1, 0)
    assert hello.encode()[at:] == b"a@b"
    for text in ("at least 16,384", "at least 65,536"):
        assert text in section(WIRE, "HELLO (1)")
    for max_frame, window in ((16_383, 65_536), (16_384, 65_535)):
        body = Hello(name, bytes(16), 1, max_frame, window, 1, 0).encode()
        with pytest.raises(fastnode.ProtocolError):
            Hello.decode(body)


def test_features() -> None:
    rows = table(section(WIRE, "HELLO (1)"), "type")
    assert {row[1]: int(row[0]) for row in rows} == {
        "HANDOVER": frames.HANDOVER,
        "SUCCEEDS": frames.SUCCEEDS,
        "EXTENSIONS": frames.EXTENSIONS,
        "WORKERS": frames.WORKERS,
        "ADDITIONAL": frames.ADDITIONAL,
    }
    for row in rows:
        sizes = numbers(row[2])
        for size in range(20):
            body = frames.hello(
                "a@b", features=frames.feature(int(row[0]), b"\1" * size)
            )
            if size in sizes:
                Hello.decode(body[8:])
            else:
                with pytest.raises(fastnode.ProtocolError):
                    Hello.decode(body[8:])


def test_older_links() -> None:
    text = section(WIRE, "How a link is replaced")
    assert f"at most {limits.MAX_RETIRING_LINKS - 1} older links" in " ".join(
        text.split()
    )


# --- the example ---------------------------------------------------------------------


def example(who: str) -> bytes:
    """The bytes that the example shows of one side."""
    blocks = re.findall(rf"^```hex {who}\n(.*?)^```", WIRE, re.MULTILINE | re.DOTALL)
    assert blocks
    lines = "".join(blocks).splitlines()
    return bytes.fromhex(" ".join(line.partition("#")[0] for line in lines))


def test_example_is_what_the_encoder_writes() -> None:
    hello = Hello(
        name=NodeName.parse("alpha@10.0.0.2"),
        instance=bytes(range(16)),
        max_message=limits.DEFAULT_MAX_MESSAGE_BYTES,
        max_frame=limits.MAX_FRAME_BYTES,
        window=limits.WINDOW_BYTES,
        endpoints=limits.ENDPOINT_DICTIONARY_SIZE,
        keepalive_ms=int(limits.KEEPALIVE_INTERVAL_SECONDS * 1000),
        ticket=b"",
    )
    kinds = {kind.name: kind.number for kind in KINDS}
    encoder = Encoder(BufferPool())
    encoder.add_frame(kinds["HELLO"], 0, hello.encode())
    written = encoder.take()
    encoder.add_frame(kinds["ACCEPT"], 0, b"")
    encoder.add_message("audit", b"hi")
    encoder.add_call("price", 1, b"7")
    written += encoder.take()
    goodbye = encode_goodbye(CloseReason.CLOSED, "", "")
    encoder.add_frame(kinds["GOODBYE"], 0, goodbye)
    written += encoder.take()
    assert example("alpha") == written
    encoder.add_reply(1, b"42")
    assert example("orders") == encoder.take()
    encoder.clear()


def test_example_is_what_the_decoder_reads() -> None:
    found: dict[str, list[Frame]] = {}
    for who in ("alpha", "orders"):
        decoder = Decoder(BufferPool())
        found[who] = decoder.feed(example(who))
        assert not decoder.unfinished
        decoder.close()
    hello, *rest = found["alpha"]
    assert hello[3] is not None
    assert str(Hello.decode(hello[3]).name) == "alpha@10.0.0.2"
    assert rest == [
        (frames.ACCEPT, 0, 0, b""),
        (frames.ENDPOINT, 0, 0, b"audit"),
        (frames.MESSAGE, 0, 0, b"hi"),
        (frames.ENDPOINT, 1, 0, b"price"),
        (frames.CALL, 1, 1, b"7"),
        (frames.GOODBYE, 0, 0, bytes([0, 1, 0, 0])),
    ]
    assert found["orders"] == [(frames.REPLY, 0, 1, b"42")]


# --- limits --------------------------------------------------------------------------

RELIABILITY = (ROOT / "docs/reliability.md").read_text()
OPTIONS = (NetworkOptions, AcceptorOptions, NodeOptions)


def amount(name: str, value: float) -> str:
    """How the document writes the value of a constant with this name."""
    if name.endswith("_SECONDS"):
        return f"{value:g} s"
    if name.endswith("_BYTES"):
        for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value >= size:
                return f"{value / size:g} {unit}"
        return f"{value:g} bytes"
    return str(value)


def test_every_limit_is_written_down() -> None:
    said = {row[0].strip("`"): row[1] for row in table(RELIABILITY, "limit")}
    known = {
        name: amount(name, value)
        for name, value in vars(limits).items()
        if name.isupper() and name not in ("KIB", "MIB")
    }
    assert said == known


@pytest.mark.parametrize("page", ["concepts", "reliability"])
def test_cost_of_a_stranger(page: str) -> None:
    text = " ".join((ROOT / f"docs/{page}.md").read_text().split())
    assert f"at most {amount('_BYTES', limits.STRANGER_BYTES)}" in text


def test_every_limit_says_why() -> None:
    assert all(row[2] for row in table(RELIABILITY, "limit"))


def test_every_numeric_option_is_written_down() -> None:
    said = {
        (row[2].strip("`"), row[0].strip("`"), row[1])
        for row in table(RELIABILITY, "option")
    }
    values: dict[str, set[float]] = {}
    for name, value in vars(limits).items():
        if name.isupper():
            values.setdefault(amount(name, value), set()).add(value)
    known = set()
    for options in OPTIONS:
        for each in dataclasses.fields(options):
            if type(each.default) in (int, float):
                found = [
                    row for row in said if row[:2] == (options.__name__, each.name)
                ]
                assert len(found) == 1, each.name
                assert each.default in values[found[0][2]], each.name
                known.add(found[0])
    assert said == known


def test_options_are_named_beside_their_limits() -> None:
    reasons = " ".join(row[2] for row in table(RELIABILITY, "limit"))
    for row in table(RELIABILITY, "option"):
        assert row[0] in reasons, row[0]


def test_reliability_names_tests_that_exist() -> None:
    named = NAMED.findall(RELIABILITY)
    assert len(named) > 20
    for file, test in named:
        assert test in defined_in(file), f"{file}::{test}"


def test_what_outside_judges_find_is_explained() -> None:
    """The run, and the tables of reliability.md, have the same reasons."""
    reasons = {reason for *_, reason in judges.DELIBERATE} | {judges.LARGE_HELLO}
    sent = "what a script sends or expects"
    assert {row[0] for row in table(RELIABILITY, sent)} == reasons
    found = {r[0].strip("`"): r[1] for r in table(RELIABILITY, "finding of testssl.sh")}
    assert found.keys() == judges.EXPLAINED.keys()
    assert all(found[each].startswith(why) for each, why in judges.EXPLAINED.items())


# --- numbers in the text -------------------------------------------------------------

WORDS = {1: "one", 2: "two", 3: "three", 4: "four"}
#: What pages promise with a number. {NAME} is the value of a constant as `amount`
#: writes it, {NAME:word} as a word, {NAME:,} with commas.
PROMISES = [
    (
        "README.md",
        "on port {DEFAULT_PORT}, or on the next free one of {DEFAULT_PORT_RANGE}",
    ),
    ("docs/concepts.md", "at most `handshake_timeout` ({HANDSHAKE_TIMEOUT_SECONDS})"),
    ("docs/concepts.md", "HELLO | {MAX_HELLO_BYTES} |"),
    ("docs/concepts.md", "handshake is complete | {MAX_CLIENT_HANDSHAKE_BYTES} |"),
    ("docs/concepts.md", "| a ClientHello | {MAX_CLIENT_HELLO_BYTES} |"),
    ("docs/concepts.md", "can be reached | {MAX_CLIENT_CHAIN_BYTES} |"),
    ("docs/concepts.md", "turn | {MAX_PENDING}, or a quarter of"),
    ("docs/concepts.md", "under way | {MAX_HANDSHAKES} |"),
    ("docs/concepts.md", "as IPv4 | {MAX_HANDSHAKES_PER_ADDRESS} |"),
    ("docs/concepts.md", "If nothing comes on that link for {CHECK_SECONDS}, the link"),
    ("docs/concepts.md", "At most {MAX_RETIRING_LINKS} older links may be left"),
    ("docs/concepts.md", "This takes at most {CLOSE_TIMEOUT_SECONDS}, unless"),
    ("docs/concepts.md", "every `keepalive_interval` ({KEEPALIVE_INTERVAL_SECONDS})"),
    ("docs/concepts.md", "After {KEEPALIVE_MISSES:word} intervals of silence"),
    ("docs/concepts.md", "within `shutdown_timeout` ({SHUTDOWN_TIMEOUT_SECONDS})"),
    ("docs/concepts.md", "waits {CANCEL_SECONDS:word} more second for handlers"),
    ("docs/concepts.md", "ceiling is {REDIAL_FIRST_SECONDS} at first, is doubled"),
    ("docs/concepts.md", "each attempt up to {REDIAL_MOST_SECONDS}, and is"),
    ("docs/concepts.md", "a link that lasted {REDIAL_STABLE_SECONDS}."),
    ("docs/concepts.md", "`port_range` ({DEFAULT_PORT_RANGE}) ports from `port`"),
    ("docs/concepts.md", "its host, port {DEFAULT_PORT}."),
    ("docs/concepts.md", "`max_message_size` ({DEFAULT_MAX_MESSAGE_BYTES})"),
    ("docs/concepts.md", "It takes `window` bytes ({WINDOW_BYTES})"),
    ("docs/concepts.md", "does not fit a frame ({MAX_FRAME_BYTES})"),
    ("docs/concepts.md", "which begins at {BULK_WINDOW_BYTES}."),
    ("docs/concepts.md", "up to `max_window` ({MAX_WINDOW_BYTES})"),
    ("docs/concepts.md", "While more than {CONTROL_HIGH_WATER_BYTES} of replies"),
    ("docs/concepts.md", "and {MAX_EXCUSED_BYTES} of calls whose handlers wait"),
    ("docs/concepts.md", "more than {MAX_EXCUSED_BYTES} of calls on a link"),
    ("docs/concepts.md", "`slow_callback_seconds` ({SLOW_CALLBACK_SECONDS};"),
    (
        "docs/concepts.md",
        "({MAX_BATCH_MESSAGES} messages, or {MAX_BATCH_BYTES} of payloads",
    ),
    ("docs/concepts.md", "none with more than {BUSY_POLL_CALLS} calls under way"),
    ("docs/reliability.md", "wait for calls of their own | {MAX_EXCUSED_BYTES} |"),
    ("docs/reliability.md", "A chain of more than {MAX_EXCUSED_BYTES} of calls"),
    ("docs/reliability.md", "after {KEEPALIVE_MISSES:word} keepalive intervals"),
    ("docs/reliability.md", "`max_queued` ({SEND_QUEUE_BYTES})"),
    ("docs/reliability.md", "`max_node_queued` ({NODE_QUEUE_BYTES})"),
    ("docs/reliability.md", "A message of {SPARE_LEAST_BYTES} and more may get"),
    ("docs/guarantees.md", "a peer may send {MAX_INTRODUCTION_BYTES}."),
    ("docs/guarantees.md", "at most {MAX_PENDING} of them"),
    ("docs/guarantees.md", "A dialer may send {MAX_CLIENT_HANDSHAKE_BYTES} before"),
    ("docs/guarantees.md", "while {CONTROL_HIGH_WATER_BYTES} of replies waits"),
    ("docs/tls.md", "{MAX_CHAIN_CERTIFICATES} at most; RSA keys up to"),
    ("docs/tls.md", "RSA keys up to {MAX_RSA_MODULUS_BITS} bits with exponents up to"),
    ("docs/tls.md", "with exponents up to {MAX_RSA_EXPONENT_BITS} bits"),
    ("docs/tls.md", "only; {MAX_CERTIFICATE_NAMES} names"),
    ("docs/performance.md", "at most {BULK_WINDOW_BYTES} of large"),
    ("docs/performance.md", "remembered for {READ_CERTIFICATES} of them"),
    ("docs/performance.md", "read {BUSY_LINK_READS} times within a keepalive interval"),
    ("docs/performance.md", "`window` ({WINDOW_BYTES})"),
    ("docs/workers.md", "under way (up to {WORKER_SETTLE_SECONDS})"),
    ("docs/workers.md", "after `hang_timeout` ({WORKER_HANG_SECONDS})"),
    ("docs/workers.md", "within `shutdown_timeout` ({SHUTDOWN_TIMEOUT_SECONDS})"),
    ("docs/workers.md", "it is killed; {WORKER_GRACE_SECONDS} after that the group"),
    ("docs/blocking.md", "has {CLIENT_EXIT_SECONDS} to leave"),
    ("docs/wire-format.md", "takes bodies of at most {MAX_HELLO_BYTES:,} bytes"),
    ("docs/wire-format.md", "remembers at most {MAX_EARLY_CANCELS:,} numbers"),
    ("docs/wire-format.md", "more than {MAX_QUEUED_PONGS:,} answers queue up"),
    ("docs/wire-format.md", "({WINDOW_BYTES:,} unless configured)"),
    ("docs/wire-format.md", "bulk reply as at most {BULK_WINDOW_BYTES:,}."),
    ("docs/wire-format.md", "`max_window` ({MAX_WINDOW_BYTES:,})"),
    ("docs/wire-format.md", "up to {MAX_EXCUSED_BYTES:,} bytes"),
    ("docs/wire-format.md", "rise above {WINDOW_LIMIT_BYTES:,} or HELLO's window"),
    (
        "docs/wire-format.md",
        "while more than {CONTROL_HIGH_WATER_BYTES:,} bytes are queued",
    ),
    ("docs/wire-format.md", "({KEEPALIVE_INTERVAL_SECONDS} each, unless configured)"),
    ("docs/wire-format.md", "After {KEEPALIVE_MISSES:word} intervals of silence"),
    ("docs/wire-format.md", "heard there within {CHECK_SECONDS} (a third of"),
    ("docs/wire-format.md", "time limit ({CLOSE_TIMEOUT_SECONDS};"),
    ("docs/wire-format.md", "discards for up to {LINGER_SECONDS:word} second before"),
    ("src/fastnode/options.py", "begin with {BULK_WINDOW_BYTES} at most"),
    ("src/fastnode/options.py", "after {KEEPALIVE_MISSES:word} of them it is lost"),
    ("src/fastnode/node/node.py", "grows from 0.1 to {REDIAL_MOST_SECONDS} (see"),
    ("src/fastnode/node/node.py", "after a link that lasted {REDIAL_STABLE_SECONDS}."),
]


class Value:
    """A constant as a page writes it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.value = getattr(limits, name)

    def __format__(self, form: str) -> str:
        if form == "word":
            return WORDS[self.value]
        return f"{self.value:,}" if form else amount(self.name, self.value)


def words_of(page: str) -> str:
    return " ".join((ROOT / page).read_text().replace("#:", "").split())


@pytest.mark.parametrize(("page", "promise"), PROMISES)
def test_a_promise_has_the_number_of_the_code(page: str, promise: str) -> None:
    names = {name: Value(name) for name in vars(limits) if name.isupper()}
    assert promise.format_map(names) in words_of(page)


def test_products_of_numbers() -> None:
    """Numbers that follow from several constants."""
    misses = limits.KEEPALIVE_MISSES
    handover = misses * limits.HANDOVER_INTERVAL_SECONDS
    assert f"silent, it is found after {handover:g} s" in words_of(
        "docs/reliability.md"
    )
    retired = (misses + 1) * limits.KEEPALIVE_INTERVAL_SECONDS
    assert f"for a sign of life ({retired:g} s)" in words_of("docs/wire-format.md")
    overrun = f"{2 * limits.MAX_FRAME_BYTES:,}"
    assert f"below 0, by at most {overrun} bytes" in words_of("docs/wire-format.md")
    grace = 2 * limits.WORKER_GRACE_SECONDS
    assert f"{grace:g} s later it is killed" in words_of("docs/workers.md")


def test_the_part_of_the_node_s_queue_at_which_drain_waits() -> None:
    code = "".join(p.read_text() for p in (ROOT / "src/fastnode/sending").glob("*.pyx"))
    found = re.search(r"self\.high = most - most // (\d+)\n", code)
    assert found
    part = f"{int(found[1]) - 1}/{found[1]}"
    for page in (
        "docs/concepts.md",
        "docs/reliability.md",
        "src/fastnode/options.py",
        "src/fastnode/limits.py",
        "src/fastnode/link/link.pyx",
    ):
        said = re.findall(r"(?:above|more than) (\d/\d|half)", words_of(page))
        assert part in said, page


# --- architecture --------------------------------------------------------------------

ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
PACKAGE = ROOT / "src/fastnode"
FILE = re.compile(r"(?<![\w/.:-])[\w/-]+\.(?:pyx|pxd|pyi|py|md|toml)\b")
#: In pictures and between backticks a word like this is a class, with or without a
#: method. A word in capitals only is a frame or a constant.
CLASS = re.compile(r"(?<![\w.])([A-Z]\w*[a-z]\w*)(?:\.(\w+))?")


def pictures() -> list[str]:
    return re.findall(r"^```mermaid\n(.*?)^```", ARCHITECTURE, re.MULTILINE | re.DOTALL)


def code_of_architecture() -> list[str]:
    """What the page says of the code: words between backticks, and its pictures."""
    prose = re.sub(r"^```.*?^```", "", ARCHITECTURE, flags=re.MULTILINE | re.DOTALL)
    words = re.findall(r"`([^`\n]+)`", prose)
    return [*words, *(re.sub(r"\bNote (?=over)", "", each) for each in pictures())]


@cache
def texts_of_package() -> dict[Path, str]:
    """The sources of the package, read once."""
    return {
        path: path.read_text()
        for path in PACKAGE.rglob("*")
        if path.suffix in (".py", ".pyi", ".pyx", ".pxd")
    }


@cache
def sources_of(cls: str) -> list[str]:
    """The text of the modules that define a class; a .pyx has its .pxd and .pyi."""
    defines = re.compile(rf"^(?:cdef )?class {cls}\b", re.MULTILINE)
    texts = texts_of_package()
    modules = {p.with_suffix("") for p, text in texts.items() if defines.search(text)}
    return [text for path, text in texts.items() if path.with_suffix("") in modules]


def test_architecture_names_files_that_exist() -> None:
    named = {file for text in code_of_architecture() for file in FILE.findall(text)}
    assert len(named) > 50
    missing = [f for f in named if not any((d / f).exists() for d in (PACKAGE, ROOT))]
    assert not missing


def test_architecture_names_classes_that_exist() -> None:
    named = {pair for text in code_of_architecture() for pair in CLASS.findall(text)}
    assert len(named) > 80
    for cls, method in sorted(named):
        if cls in ("True", "None"):
            continue
        sources = sources_of(cls)
        assert sources, f"there is no class {cls}"
        defined = re.compile(rf"\b{method}\(|^    {method}\b", re.MULTILINE)
        assert any(map(defined.search, sources)), f"{cls} has no {method}"


def test_architecture_names_other_things_that_exist() -> None:
    code = "\n".join(
        path.read_text()
        for path in PACKAGE.rglob("*")
        if path.suffix in (".py", ".pyi", ".pyx", ".pxd")
    )
    for text in code_of_architecture():
        for name in re.findall(r"^(\w+)$", text):
            assert re.search(rf"\b{name}\b", code) or name in RANKS, name


def test_a_missing_class_is_seen() -> None:
    assert CLASS.findall("`Outbox.reply`, ACK, Sub1 a.B C") == [
        ("Outbox", "reply"),
        ("Sub1", ""),
    ]
    assert sources_of("Outbox")
    assert not sources_of("Outbux")
    assert FILE.findall("(link/calls.pyx), docs/a-b.md, no.sh") == [
        "link/calls.pyx",
        "docs/a-b.md",
    ]


def test_the_tables_of_packages_have_the_ranks() -> None:
    rows = table(ARCHITECTURE, "package")
    assert {row[0].strip("`"): int(row[1]) for row in rows} == RANKS
    rows = table((ROOT / "CONTRIBUTING.md").read_text(), "rank")
    said = {
        name: int(row[0]) for row in rows for name in re.findall(r"`(\w+)`", row[1])
    }
    assert said == RANKS


def test_the_picture_of_packages_is_what_they_import() -> None:
    """Each arrow is an import, and each import is an arrow or follows from arrows."""
    imports = {
        (SAME.get(one, one), SAME.get(other, other))
        for path in SOURCES
        for module in imported_modules(path.read_text())
        if (one := unit_of(path)) != (other := f"{module}..".split(".")[1])
        if module.startswith("fastnode.")
    }
    lines = [
        line.split(" --> ") for line in pictures()[0].splitlines() if "-->" in line
    ]
    arrows = {(a.strip().partition("[")[0], b.partition("[")[0]) for a, b in lines}
    assert len(arrows) == len(lines)
    assert not arrows - imports
    reached = set(arrows)
    while more := {(a, d) for a, b in reached for c, d in arrows if b == c} - reached:
        reached |= more
    assert not {(a, b) for a, b in imports if a != b} - reached


def test_counts_of_files() -> None:
    for row in table(ARCHITECTURE, "change"):
        further = map(int, re.findall(r"\b(\d+) (?:new|of the part)", row[2]))
        assert int(row[1]) == len(FILE.findall(row[2])) + sum(further), row[0]


@pytest.mark.parametrize("picture", pictures(), ids=lambda text: text.split()[0])
def test_pictures_have_the_syntax_of_mermaid(picture: str) -> None:
    """The few forms that the pictures use. Mermaid itself is no part of the tests."""
    first, *lines = picture.splitlines()
    words = "end|graph" if first.startswith("flowchart") else "end|links?|note|alt|else"
    name = rf"(?!(?:{words})\b)[A-Za-z]\w*"
    node = rf"{name}(?:\[\"[^\"]+\"\]|\{{\"[^\"]+\"\}})?"
    label = r"(?:\w+|\"[^\"]+\")"
    arrow = rf"(?:-->|-- {label} -->|-\. {label} \.->)"
    sequence = (
        rf"(?:participant|actor) {name}(?: as \w+)?|{name}->>{name}: [^;]+"
        rf"|Note over {name}: [^;]+|(?:alt|else) [^;]+|end"
    )
    forms = {
        "flowchart BT": rf"{node} {arrow} {node}",
        "flowchart TB": rf"{node} {arrow} {node}",
        "sequenceDiagram": sequence,
    }
    for line in lines:
        assert re.fullmatch(forms[first], line.strip(), re.IGNORECASE), line


# --- counters ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "of"),
    [("node field", fastnode.NodeStats), ("endpoint field", fastnode.EndpointStats)],
)
def test_every_counter_is_written_down(
    heading: str, of: type[fastnode.NodeStats | fastnode.EndpointStats]
) -> None:
    rows = table((ROOT / "docs/stats.md").read_text(), heading)
    kinds = {row[0].strip("`"): row[1] for row in rows}
    fields = [each.name for each in dataclasses.fields(of)]
    assert list(kinds) == fields
    for name in fields:
        assert kinds[name] == ("total" if is_total(of, name) else "now"), name
    assert all(row[2] and row[3] for row in rows)
    described = of.__doc__ or ""
    assert all(re.search(rf"\b{name}\b", described) for name in fields)
