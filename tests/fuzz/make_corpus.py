"""Write the committed corpus: ``python tests/fuzz/make_corpus.py``.

What a fuzzer begins with: for each target at least one input of every kind that it
knows. Inputs that once found a bug are kept beside them, under other names.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.targets import AGREED, DIALER, EXTENDS, LATER, NAMES, SLOW, STAGES, TICKET
from helpers import frames, heavy
from helpers.impostor import certificate_message
from helpers.nodes import A

CORPUS = Path(__file__).parent / "corpus"

HANDOVER = frames.feature(frames.HANDOVER)
NUMBER = struct.pack(">I", 1)
HELLO = frames.hello(A, features=HANDOVER)

#: One frame of every kind, and what follows from it.
FRAMES = {
    "hello": HELLO,
    "accept": frames.frame(frames.ACCEPT),
    "endpoint": frames.frame(frames.ENDPOINT, b"audit", number=0),
    "names": NAMES,
    "message": frames.message(0, b"hi"),
    "message_direct": frames.message(0, bytes(5000)),
    "message_parts": frames.frame(
        frames.MESSAGE, struct.pack(">Q", 9) + b"four", flags=frames.MORE
    )
    + frames.frame(frames.CONTINUE, b"3..", flags=frames.MORE)
    + frames.frame(frames.CONTINUE, b"zz"),
    "call": frames.call(0, 7, b"hi"),
    "call_slow": frames.call(1, 9, b""),
    "call_soon": frames.call(2, 10, b"0123456789abcdef"),
    "call_large": frames.call(3, 11, b"") * 2,
    "call_nothing": frames.frame(frames.ENDPOINT, b"none", number=4)
    + frames.call(4, 12, b""),
    "reply": frames.reply(1, b"yes"),
    "reply_parts": frames.frame(
        frames.REPLY, NUMBER + struct.pack(">Q", 4) + b"ab", flags=frames.MORE
    )
    + frames.frame(frames.MESSAGE, b"between")
    + frames.frame(frames.CONTINUE, b"cd", number=frames.BULK_REPLIES),
    "replies_between": frames.frame(
        frames.REPLY, NUMBER + struct.pack(">Q", 4) + b"ab", flags=frames.MORE
    )
    + frames.reply(2, b"whole")
    + frames.frame(frames.CONTINUE, b"c", flags=frames.MORE, number=frames.BULK_REPLIES)
    + frames.frame(frames.PING, bytes(8))
    + frames.frame(frames.CONTINUE, b"d", number=frames.BULK_REPLIES),
    "replies_inside": frames.frame(
        frames.REPLY, NUMBER + struct.pack(">Q", 4) + b"ab", flags=frames.MORE
    )
    * 2,
    "error": frames.frame(frames.ERROR, NUMBER + b"\0\1\0\3ValueError"),
    "credit": frames.frame(frames.CREDIT, struct.pack(">I", 70_000)),
    "credit_replies": frames.frame(
        frames.CREDIT, struct.pack(">I", 70_000), number=frames.BULK_REPLIES
    )
    + frames.frame(frames.CREDIT, bytes(4), number=frames.REPLIES),
    # Found: the handler's task was cancelled before its first step.
    "call_cancelled": frames.call(1, 1, b"") + frames.frame(frames.CANCEL, NUMBER),
    "cancel": frames.frame(frames.CANCEL, NUMBER),
    "ping": frames.frame(frames.PING, bytes(8)),
    "pong": frames.frame(frames.PONG, struct.pack(">Q", 1)),
    "goodbye": frames.frame(frames.GOODBYE, frames.reason(1, "why", "hint")),
    "refused": frames.frame(frames.GOODBYE, frames.reason(19, "no")),
    "moved": frames.frame(frames.MOVED),
    "reconnect": frames.frame(frames.RECONNECT),
    "stay": frames.frame(frames.STAY, frames.reason(28, "no", "hint")),
    "empty_part": frames.frame(frames.CONTINUE, b"", number=1),
    "huge": struct.pack(">BBHI", frames.MESSAGE, 0, 0, 0xFFFFFFFF),
    "unknown": frames.frame(22, b"?") + frames.frame(0),
}
FOUR = struct.pack(">Q", 4)
#: Extension blocks, good and bad.
BLOCKS = {
    "empty": b"",
    "deadline": frames.field(frames.DEADLINE, struct.pack(">Q", 1_500_000)),
    "deadline_over": frames.field(frames.DEADLINE, bytes(8)),
    "deadline_longest": frames.field(frames.DEADLINE, b"\xff" * 8),
    "request": frames.field(frames.REQUEST, TICKET + b"\0\2"),
    "metadata": frames.field(
        frames.METADATA,
        frames.entry(b"trace-id", b"abc") + frames.entry(b"tenant", "größe".encode()),
    ),
    "status": frames.field(frames.STATUS, b"\x0cout_of_stockdetails"),
    "later": frames.field(200, b"of a later version") * 2,
    "cut_off": frames.field(frames.DEADLINE, bytes(8))[:-1],
    "twice": frames.field(frames.DEADLINE, bytes(8)) * 2,
    "attempt_0": frames.field(frames.REQUEST, bytes(18)),
    "upper_case": frames.field(frames.METADATA, frames.entry(b"Upper", b"")),
    "control_character": frames.field(frames.METADATA, frames.entry(b"a", b"\n")),
    "entry_twice": frames.field(frames.METADATA, frames.entry(b"a", b"") * 2),
    "entry_cut_off": frames.field(frames.METADATA, frames.entry(b"a", b"bc")[:-1]),
    "code_empty": frames.field(frames.STATUS, b"\0"),
}
BLOCKS["all"] = b"".join(
    BLOCKS[name] for name in ("deadline", "request", "metadata", "status", "later")
)
#: Frames that are taken only where EXTENSIONS is in effect.
EXTENDED = {
    "message": frames.extended(frames.MESSAGE, b"", BLOCKS["metadata"], b"hi"),
    "message_deadline": frames.extended(frames.MESSAGE, b"", BLOCKS["deadline"]),
    "message_direct": frames.extended(
        frames.MESSAGE, b"", BLOCKS["metadata"], bytes(5000)
    ),
    "message_parts": frames.extended(
        frames.MESSAGE, FOUR, BLOCKS["metadata"], b"ab", flags=frames.MORE
    )
    + frames.frame(frames.CONTINUE, b"cd"),
    "call": frames.extended(frames.CALL, NUMBER, BLOCKS["all"], b"hi"),
    "call_soon": frames.extended(
        frames.CALL, NUMBER, BLOCKS["deadline"], b"hi", number=2
    ),
    "call_over": frames.extended(frames.CALL, NUMBER, BLOCKS["deadline_over"]),
    "call_longest": frames.extended(
        frames.CALL, NUMBER, BLOCKS["deadline_longest"], number=1
    ),
    "call_refused": frames.frame(frames.ENDPOINT, b"refuses", number=4)
    + frames.extended(frames.CALL, NUMBER, BLOCKS["request"], b"why", number=4),
    "confirm": frames.extended(frames.CONFIRM, NUMBER, BLOCKS["all"], b"hi"),
    "reply": frames.extended(frames.REPLY, NUMBER, BLOCKS["metadata"], b"yes"),
    "reply_second": frames.extended(
        frames.REPLY, struct.pack(">I", 2), BLOCKS["metadata"], b"yes"
    ),
    "reply_parts": frames.extended(
        frames.REPLY, NUMBER + FOUR, BLOCKS["metadata"], b"ab", flags=frames.MORE
    )
    + frames.frame(frames.CONTINUE, b"cd", number=frames.BULK_REPLIES),
    "error": frames.extended(frames.ERROR, NUMBER, BLOCKS["status"], b"\0\1\0\3Newno"),
    "error_second": frames.extended(
        frames.ERROR, struct.pack(">I", 2), BLOCKS["status"], b"\0\1\0\3Newno"
    ),
    "broken": frames.extended(frames.CALL, NUMBER, BLOCKS["upper_case"], b"hi"),
    "too_long": frames.frame(frames.MESSAGE, b"\xff\xff", flags=frames.EXTENDED),
    "on_ping": frames.frame(frames.PING, bytes(8), flags=frames.EXTENDED),
    "cancel_late": frames.frame(frames.CANCEL, NUMBER, number=1),
    "pause": frames.frame(frames.PAUSE, b"there"),
    "resume": frames.frame(frames.RESUME, b"there"),
    "dropped": frames.dropped(b"there", 7),
    "dropped_no_text": frames.dropped(b"\xff"),
    "leaving": frames.leaving(5000),
}
#: Where each stage is worth its own seeds.
TALKS = {
    "hello": ("hello", "refused", "accept"),
    "deciding": ("goodbye", "ping"),
    "accepted": ("accept", "refused", "hello"),
}


def _codec() -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {"decoder": {}, "handshake_decoder": {}}
    for name, data in FRAMES.items():
        found["decoder"][name] = b"\0" + data
        if len(data) < 500:
            found["handshake_decoder"][name] = b"\3" + data
    found["decoder"]["all"] = b"\5" + b"".join(
        data
        for name, data in FRAMES.items()
        if name not in ("huge", "unknown", "replies_inside")
    )
    for name, data in EXTENDED.items():
        if len(data) < 500:
            found["handshake_decoder"][f"extended_{name}"] = bytes([AGREED | 3]) + data
        found["decoder"][f"extended_{name}"] = bytes([AGREED | 7]) + data
    found["decoder"]["not_agreed"] = b"\3" + EXTENDED["call"]
    found["extension"] = BLOCKS
    rest = struct.pack(">HH", 1, 3) + b"Newno"
    found["call_error"] = {
        "plain": b"\0" + NUMBER + rest,
        "name_too_long": b"\0" + NUMBER + struct.pack(">HH", 1, 99) + b"short",
        "cut_utf8": b"\0" + NUMBER + struct.pack(">HH", 2, 1) + "é".encode(),
        "largest": b"\0" + NUMBER + struct.pack(">HH", 9, 1024) + bytes(2048),
        "not_agreed": bytes([EXTENDS]) + NUMBER + b"\0\0" + rest,
        "no_room": bytes([EXTENDS | AGREED]) + NUMBER + b"\0\4abcd\0",
        "block_too_long": bytes([EXTENDS | AGREED]) + NUMBER + b"\xff\xff" + rest,
    }
    for name in ("empty", "status", "all", "twice", "code_empty"):
        block = struct.pack(">H", len(BLOCKS[name])) + BLOCKS[name]
        head = bytes([EXTENDS | AGREED]) + NUMBER
        found["call_error"][f"block_{name}"] = head + block + rest
    body = HELLO[8:]
    found["hello"] = {
        "plain": body,
        "no_features": frames.hello(A)[8:],
        "features": frames.hello(
            "x@y",
            features=frames.feature(frames.HANDOVER, bytes(16))
            + frames.feature(frames.SUCCEEDS, bytes(16))
            + frames.feature(frames.EXTENSIONS)
            + frames.feature(999, b"?"),
        )[8:],
        "extensions_size": frames.hello(
            A, features=frames.feature(frames.EXTENSIONS, b"?")
        )[8:],
        "versions": frames.hello(A, versions=(1, 255))[8:],
        "least": frames.hello("a@b", max_frame=16384, window=65536, endpoints=1)[8:],
        "ipv6": frames.hello("a@[::1]")[8:],
        "cut": body[:-2],
    }
    found["goodbye"] = {
        "empty": frames.reason(0),
        "text": frames.reason(16, "why", "hint"),
        "utf8": frames.reason(65535, "é", "ü"),
        "cut_utf8": struct.pack(">HH", 1, 1) + "é".encode(),
        "too_long": struct.pack(">HH", 1, 9) + b"short",
    }
    return found


def _links() -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {"link": {}, "assembly": {}}
    for number, stage in enumerate(STAGES):
        for role, flag in (("acceptor", 0), ("dialer", DIALER)):
            names = TALKS.get(stage) or ("all",)
            for name in names:
                how = number | flag | (SLOW if number % 2 else 0)
                data = FRAMES.get(name, b"")
                if name == "all":
                    how |= LATER
                    data = b"".join(
                        FRAMES[each]
                        for each in ("names", "message", "call", "call_soon", "ping")
                    )
                found["link"][f"{stage}_{role}_{name}"] = bytes([how, 0]) + data
    up = STAGES.index("up")
    for name, data in FRAMES.items():
        if len(data) < 500:
            piece = len(name) % 4
            found["link"][f"up_{name}"] = bytes([up, piece]) + NAMES + data
            found["link"][f"busy_{name}"] = bytes([STAGES.index("busy"), piece]) + data
    found["link"] |= _extended_links()
    found["link"]["whole_life"] = bytes([0, 7]) + b"".join(
        FRAMES[name]
        for name in ("hello", "accept", "names", "message", "call", "ping", "moved",
                     "credit", "cancel", "goodbye")
    )  # fmt: skip
    e, m, c, part, more = 0, 1, 2, 3, 128
    scripts: dict[str, list[tuple[int, int, int]]] = {
        "names": [(e, 0, 0), (e, 1, 1), (m, 0, 9), (m, 1, 9), (e, 0, 4), (m, 0, 1)],
        "out_of_turn": [(e, 1, 0)],
        "parts": [(e, 0, 0), (m | more, 0, 100), (part, 0, 100)],
        "three_parts": [(e, 0, 0), (m | more, 0, 80), (part | more, 0, 40),
                        (part, 0, 69)],
        "call_parts": [(e, 2, 0), (e, 0, 0), (c | more, 5, 50), (part, 0, 50)],
        "inside": [(e, 0, 0), (m | more, 0, 50), (m, 0, 3)],
        "largest": [(e, 0, 0), (m, 0, 255), (m, 0, 255), (c, 0, 200)],
        "reply_lane": [(part, 6, 4)],
    }  # fmt: skip
    for name, script in scripts.items():
        found["assembly"][name] = b"".join(bytes(step) for step in script)
    return found


def _extended_links() -> dict[str, bytes]:
    """Links whose peer announces EXTENSIONS, and one whose peer does not."""
    found: dict[str, bytes] = {}
    for name, data in EXTENDED.items():
        piece = len(name) % 4
        for stage in ("up", "busy", "closing", "goodbye"):
            how = STAGES.index(stage) | AGREED
            begin = NAMES if stage == "up" else b""
            found[f"{stage}_extended_{name}"] = bytes([how, piece]) + begin + data
    for number, stage in enumerate(STAGES):
        how = number | AGREED | DIALER | LATER
        found[f"{stage}_extended_all"] = bytes([how, 0]) + b"".join(
            EXTENDED[name]
            for name in ("pause", "message", "dropped", "call", "leaving", "resume")
        )
    found["busy_not_agreed"] = bytes([STAGES.index("busy"), 0]) + EXTENDED["call"]
    return found


def _tls() -> dict[str, dict[str, bytes]]:
    client = bytes([0, 0])
    alert = bytes([21, 3, 3, 0, 2, 2, 40])
    found: dict[str, dict[str, bytes]] = {"ciphertext": {}, "tls": {}}
    for role, flag in (("acceptor", 0), ("dialer", DIALER)):
        head = bytes([flag, 0])
        found["ciphertext"] |= {
            f"{role}_alert": head + alert,
            f"{role}_http": head + b"GET / HTTP/1.1\r\n\r\n",
            f"{role}_plaintext": head + HELLO,
            f"{role}_empty_record": head + bytes([23, 3, 3, 0, 0]) * 3,
            f"{role}_change_cipher": head + bytes([20, 3, 3, 0, 1, 1]) * 3,
            f"{role}_longest": head + bytes([22, 3, 1, 255, 255]) + bytes(50),
        }
        for what in range(8):
            for record in range(6):
                steps = bytes(4 * record) + bytes([what, 1, 129, 7])
                found["tls"][f"{role}_{what}_{record}"] = (
                    bytes([flag, record + 1]) + steps + FRAMES["ping"]
                )
        found["tls"][f"{role}_untouched"] = head + FRAMES["call"] + FRAMES["goodbye"]
    found["ciphertext"]["acceptor_client_hello"] = client + _client_hello()
    return found


def _client_hello() -> bytes:
    """What a client of ours says first. Its random parts are replaced by zeros, so
    that the corpus is the same each time."""
    from fuzz.targets import _managers, _TlsPeer

    peer = _TlsPeer(_managers()[0], server_side=False)
    peer.hear(b"")
    (record,) = peer.records()
    # Record and handshake headers, version; then 32 random bytes, and as many of the
    # session's id behind its length. The key share stays as it is.
    return record[:11] + bytes(32) + record[43:44] + bytes(32) + record[76:]


def _certificates() -> dict[str, dict[str, bytes]]:
    """Chains, in the form of both versions of TLS."""
    chains = {
        "none": [],
        "one": [heavy.certificate()],
        "rsa": [heavy.certificate(heavy.rsa(2048))],
        "rsa_too_large": [heavy.certificate(heavy.rsa(16384))],
        "explicit_curve": [heavy.certificate(heavy.explicit_curve())],
        "names": [
            heavy.certificate(extensions=[heavy.sans(5)]),
            heavy.certificate(extensions=[heavy.constraints(5)]),
        ],
        "many": [heavy.certificate()] * 11,
        "ber": [heavy.ber()],
    }
    found = {}
    for tls13 in (False, True):
        for name, chain in chains.items():
            body = certificate_message(chain, tls13=tls13)[4:]
            found[f"{name}_{'13' if tls13 else '12'}"] = bytes([tls13]) + body
    return {"certificates": found}


def main() -> None:
    """Write all of it; inputs of other names are left alone."""
    for target, inputs in (_certificates() | _codec() | _links() | _tls()).items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in inputs.items():
            path = folder / name
            if name == "acceptor_client_hello" and path.exists():
                continue  # its key share is random
            path.write_bytes(data)
        print(f"{target}: {len(inputs)} inputs")


if __name__ == "__main__":
    main()
