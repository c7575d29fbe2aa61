"""The tables of frame kinds and features agree with everything that repeats them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastnode.buffers.pool import BufferPool
from fastnode.errors import ProtocolError
from fastnode.link.machine import FRAMES, State, frame_mask
from fastnode.wire.decoder import Decoder
from fastnode.wire.hello import FEATURES
from fastnode.wire.kinds import (
    EXTENDED,
    KINDS,
    LANE,
    MORE,
    NESTED,
    PLANNED,
    FrameKind,
    Phase,
    mask,
)
from helpers import frames
from helpers.documents import section, table

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/fastnode"
WIRE = (ROOT / "docs/wire-format.md").read_text()
ROWS = {row[1]: row for row in table(WIRE, "kind")}
STREAMS = section(WIRE, "Streams")
PLANNED_ROWS = {row[1]: row for row in table(STREAMS, "kind")}
#: The widest mask is an `unsigned int`.
MOST_KINDS = 32


def numbers(text: str) -> set[int]:
    """The numbers in a text; "14 to 16" are three."""
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?: to (\d+))?", text):
        found.update(range(int(first), int(last or first) + 1))
    return found


def sentence(pattern: str) -> str:
    """What the document says in the place of the group of `pattern`."""
    found = re.search(pattern, " ".join(WIRE.split()))
    assert found, pattern
    return found[1]


def numbers_in_pxd() -> dict[str, int]:
    """The constants of wire/frame.pxd, which Cython needs when it compiles."""
    text = (SOURCE / "wire/frame.pxd").read_text()
    block = re.search(r"# Kinds of frames[^\n]*\ncdef enum:\n((?: {4}.*\n)+)", text)
    assert block
    return {name: int(value) for name, value in re.findall(r"(\w+) = (\d+)", block[1])}


# --- the table by itself -------------------------------------------------------------


def test_numbers_have_no_gaps() -> None:
    assert [kind.number for kind in KINDS] == list(range(1, len(KINDS) + 1))
    assert len({kind.name for kind in KINDS}) == len(KINDS) < MOST_KINDS


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kind_is_sound(kind: FrameKind) -> None:
    assert kind.phases
    assert kind.meaning
    assert kind.most is None or kind.least <= kind.most
    # A frame of several parts carries a payload.
    assert kind.most is None or not kind.flags & MORE
    assert kind.taken_by in ("", "dialer", "acceptor")
    assert not kind.feature or kind.feature in {f.name for f in FEATURES.values()}
    # Once it has moved, a peer sends nothing new. After a goodbye it is not asked to.
    assert not (kind.until_moved and kind.after_goodbye)


# --- what repeats it -----------------------------------------------------------------


def test_constants_of_cython() -> None:
    in_pxd = numbers_in_pxd()
    assert in_pxd.pop("KIND_END") == KINDS[-1].number + 1
    assert in_pxd == {kind.name: kind.number for kind in KINDS}


def test_bytes_of_cython() -> None:
    text = (SOURCE / "wire/frame.pxd").read_text()
    found = re.findall(r"^ {4}(MORE|NESTED|EXTENDED) = (\d+)$", text, re.MULTILINE)
    assert {name: int(flag) for name, flag in found} == {
        "MORE": MORE,
        "NESTED": NESTED,
        "EXTENDED": EXTENDED,
    }
    lanes = re.search(r"^ {4}LANE_BITS = (\d+) << (\d+)$", text, re.MULTILINE)
    assert lanes
    assert int(lanes[1]) << int(lanes[2]) == LANE


def test_numbers_of_the_tests() -> None:
    """tests/helpers/frames.py is written from the document, not from this table."""
    assert {kind.name: getattr(frames, kind.name) for kind in KINDS} == {
        kind.name: kind.number for kind in KINDS
    }
    assert (frames.MORE, frames.NESTED, frames.EXTENDED) == (MORE, NESTED, EXTENDED)


def test_the_document_has_the_same_kinds() -> None:
    assert {name: int(row[0]) for name, row in ROWS.items()} == {
        kind.name: kind.number for kind in KINDS
    }
    assert f"kinds above {KINDS[-1].number} are unknown" in " ".join(WIRE.split())


@pytest.mark.parametrize("kind", KINDS + PLANNED, ids=lambda kind: kind.name)
def test_the_document_has_the_same_rules(kind: FrameKind) -> None:
    number, _, lane, _, flags, body = (ROWS | PLANNED_ROWS)[kind.name]
    assert int(number) == kind.number
    assert lane == kind.lane
    bits = {"`MORE`": MORE, "lane": LANE, "`NESTED`": NESTED, "`EXTENDED`": EXTENDED}
    assert sum(bit for word, bit in bits.items() if word in flags) == kind.flags
    most = "payload" if kind.most is None else kind.most
    assert body == f"{kind.least} to {most}"


def test_planned_kinds_follow_and_are_not_taken() -> None:
    first = KINDS[-1].number + 1
    numbers = [kind.number for kind in PLANNED]
    assert numbers == list(range(first, first + len(PLANNED)))
    assert {kind.name for kind in PLANNED} == set(PLANNED_ROWS)
    assert {kind.feature for kind in PLANNED} == {"STREAMS"}
    assert "STREAMS" not in {feature.name for feature in FEATURES.values()}
    for number in numbers:
        decoder = Decoder(BufferPool())
        with pytest.raises(ProtocolError, match="unknown kind"):
            decoder.feed(frames.frame(number, body=bytes(8)))
        decoder.close()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_document_has_a_section(kind: FrameKind) -> None:
    headings = re.findall(r"^### (.*)$", WIRE, re.MULTILINE)
    assert any(f"{kind.name} ({kind.number})" in heading for heading in headings)


def test_the_document_says_when_kinds_are_taken() -> None:
    until_moved = sentence(r"After the peer's MOVED, kinds ([\d, and]+) are not taken")
    after = sentence(r"After its GOODBYE, only kinds ([\d, and]+) are taken")
    handover = sentence(r"Kinds ([\d to]+) are taken only if both sides sent HANDOVER")
    assert numbers(until_moved) == {k.number for k in KINDS if k.until_moved}
    assert numbers(after) == {k.number for k in KINDS if k.after_goodbye}
    extensions = sentence(r"Kinds ([\d to]+) are taken only if EXTENSIONS is in effect")
    assert numbers(handover) == {k.number for k in KINDS if k.feature == "HANDOVER"}
    assert numbers(extensions) == {k.number for k in KINDS if k.feature == "EXTENSIONS"}
    for side in ("dialer", "acceptor"):
        said = sentence(rf"kind (\d+) only by the {side}")
        assert numbers(said) == {k.number for k in KINDS if k.taken_by == side}


def test_states_of_a_link() -> None:
    phases = {
        State.TLS: None,
        State.HELLO: Phase.HELLO,
        State.DECIDING: Phase.DECIDING,
        State.ACCEPTED: Phase.ACCEPT,
        State.UP: Phase.TRAFFIC,
        State.RETIRING: Phase.TRAFFIC,
        State.CLOSING: Phase.TRAFFIC,
        State.CLOSED: None,
    }
    for state, phase in phases.items():
        taken = {kind.number for kind in KINDS if phase in kind.phases}
        assert FRAMES[state] == taken
        assert frame_mask(state) == sum(1 << number for number in taken)
    assert mask(lambda kind: kind.name == "MESSAGE") == 1 << frames.MESSAGE


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_decoder_has_the_same_rules(kind: FrameKind) -> None:
    """A body of `least` bytes is a frame; one byte less or more than allowed is not."""

    def refused(length: int, flags: int = 0) -> bool:
        decoder = Decoder(BufferPool())
        try:
            decoder.feed(bytes([kind.number, flags, 0, 0]) + length.to_bytes(4))
        except Exception as error:
            return "malformed" in str(error)
        finally:
            decoder.close()
        return False

    if kind.name != "CONTINUE":  # there is nothing to continue
        assert not refused(kind.least)
        assert kind.most is None or not refused(kind.most)
    assert kind.least == 0 or refused(kind.least - 1)
    assert kind.most is None or refused(kind.most + 1)
    for bit in range(8):
        # Lane 1 has no messages, so bit 1 alone is refused for every kind.
        if not kind.flags & 1 << bit:
            assert refused(max(kind.least, 12 if kind.most is None else 0), 1 << bit)


# --- features of HELLO ---------------------------------------------------------------


def test_features_of_the_document() -> None:
    rows = {row[1]: row for row in table(section(WIRE, "HELLO (1)"), "type")}
    assert {name: int(row[0]) for name, row in rows.items()} == {
        feature.name: feature.number for feature in FEATURES.values()
    }
    for feature in FEATURES.values():
        assert numbers(rows[feature.name][2]) == set(feature.sizes)
        assert getattr(frames, feature.name) == feature.number


@pytest.mark.parametrize("attribute", FEATURES)
def test_one_place_uses_a_feature(attribute: str) -> None:
    users = set()
    # The attribute of a HELLO, and the argument that sets one.
    use = re.compile(rf"hello\.{attribute}\b|^\s*{attribute}=", re.MULTILINE)
    for path in SOURCE.rglob("*.py*"):
        if path.suffix in (".py", ".pyx", ".pxd") and use.search(path.read_text()):
            users.add(".".join(path.relative_to(SOURCE.parent).with_suffix("").parts))
    assert users == {FEATURES[attribute].used_by}
