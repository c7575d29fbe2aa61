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
from fastnode.wire.decoder import Decoder, Frame
from fastnode.wire.encoder import Encoder
from fastnode.wire.goodbye import encode_goodbye
from fastnode.wire.hello import Hello
from fastnode.wire.kinds import KINDS
from helpers import frames
from helpers.documents import section, table

ROOT = Path(__file__).parents[2]
WIRE = (ROOT / "docs/wire-format.md").read_text()
CONCEPTS = (ROOT / "docs/concepts.md").read_text()
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
def defined_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
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


# --- concepts ----------------------------------------------------------------------


def test_every_error_is_explained() -> None:
    public = {
        name: cls
        for name in fastnode.__all__
        if isinstance(cls := getattr(fastnode, name), type)
        and issubclass(cls, FastnodeError)
        and cls is not FastnodeError
    }
    rows = {row[0].strip("`"): row for row in table(CONCEPTS, "error")}
    assert set(rows) == set(public)
    for name, row in rows.items():
        bases = {base.__name__ for base in public[name].__mro__}
        for base in re.findall(r"`(\w+)`", row[1]):
            assert base in bases, f"{name} is no {base}"


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
    bits = {"`MORE`": 1, "lane": 4, "`NESTED`": 16}
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
    }
    for row in rows:
        sizes = numbers(row[2])
        for size in range(20):
            body = frames.hello(
                "a@b", features=frames.feature(int(row[0]), bytes(size))
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
