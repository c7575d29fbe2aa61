"""The steps of the demo."""

from __future__ import annotations

import asyncio
import json
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from fastnode import (
    CertAuthManager,
    ClientAuth,
    HandshakeError,
    Link,
    NetworkOptions,
    Node,
    NodeOptions,
    Route,
    start_node,
)
from fastnode.certs.authority import Authority
from fastnode.cli.demo.child import ChildNode
from fastnode.cli.demo.report import Report, Step
from fastnode.cli.demo.second import SEQUENCE_BYTES, described, identity, stem_of
from fastnode.groups import described_group
from fastnode.names import NodeName

__all__ = ["Tour"]

FIRST = "orders@127.0.0.1"
SECOND = "billing@127.0.0.1"
THIRD = "auditor@127.0.0.1"
INTRUDER = "intruder@127.0.0.1"
PAYLOAD_BYTES = 64
#: Messages between two looks at the high-water mark.
BURST = 500
OUTSTANDING = 64

#: Told how much of a step is done: name, done, total.
Progress = Callable[[str, int, int], None]


class Tour:
    """Makes certificates, starts two nodes and shows what they do."""

    def __init__(
        self, directory: Path, messages: int, calls: int, progress: Progress
    ) -> None:
        self._directory = directory
        self._messages = messages
        self._calls = calls
        self._progress = progress
        self._authority = Authority.create("demo CA")
        self._address = ("", 0)

    async def run(self, report: Report, done: Callable[[Step], None]) -> None:
        """Take all steps; `done` hears of each."""

        def add(step: Step) -> None:
            report.steps.append(step)
            done(step)

        # Here, logging is shown in the steps, not on the terminal.
        logging.getLogger("fastnode").addHandler(logging.NullHandler())
        logging.getLogger("fastnode").propagate = False
        add(self._make_certificates())
        async with ChildNode(self._directory, SECOND) as child:
            self._address = child.address
            async with await self._start(FIRST) as node:
                link = await node.connect(SECOND)
                add(await self._who(link, child))
                add(await self._one_way(link))
                add(await self._latency(link))
                add(await self._rate(link))
                add(await self._rotate(link, child))
                add(await self._intruder(child, certificate=True))
                add(await self._intruder(child, certificate=False))

    # --- the steps ---------------------------------------------------------------

    def _make_certificates(self) -> Step:
        self._authority.save(self._directory)
        for name in (FIRST, SECOND, THIRD):
            self._issue(name, stem_of(name))
        return Step(
            "certificates",
            ok=True,
            found="a CA and a certificate for each node, in a temporary folder",
        )

    async def _who(self, link: Link, child: ChildNode) -> Step:
        seen = (await child.ask("peers"))["peers"][0]
        there = described(link.peer)
        ok = (
            there["verified"]
            and seen["verified"]
            and there["name"] == SECOND
            and seen["name"] == FIRST
            and there["tls"] == seen["tls"] == "TLSv1.3"
        )
        group = there["group"]
        exchange = "" if group is None else f"{described_group(group)}, "
        found = (
            f"two processes, {there['tls']}, {there['cipher']}, {exchange}both verified"
        )
        quotes = [
            (who, f"the other is {p['name']}: {p['subject']}, serial {p['serial'][:8]}")
            for who, p in ((FIRST, there), (SECOND, seen))
        ]
        details = {"first_sees": there, "second_sees": seen}
        return Step("who is who", ok, found, details, quotes)

    async def _one_way(self, link: Link) -> Step:
        total = self._messages
        padding = bytes(PAYLOAD_BYTES - SEQUENCE_BYTES)
        await link.call("count", b"")
        began = time.perf_counter()
        for number in range(total):
            link.send("numbered", number.to_bytes(SEQUENCE_BYTES) + padding)
            if number % BURST == 0:
                await link.drain()
                self._progress("messages", number, total)
        received, wrong = json.loads(await link.call("count", b"", timeout=60))
        seconds = time.perf_counter() - began
        self._progress("messages", total, total)
        rate = total / seconds
        return Step(
            "one-way messages",
            received == total and wrong == 0,
            f"{received:,} of {total:,} messages of {PAYLOAD_BYTES} bytes arrived, "
            f"{wrong} out of order: {rate / 1e6:.2f} million a second",
            {"sent": total, "received": received, "wrong": wrong, "per_second": rate},
        )

    async def _latency(self, link: Link) -> Step:
        payload = bytes(PAYLOAD_BYTES)
        times = []
        count = max(self._calls // 10, 10)
        for number in range(count):
            began = time.perf_counter()
            reply = await link.call("echo", payload)
            times.append((time.perf_counter() - began) * 1e6)
            if number % BURST == 0:
                self._progress("calls, one by one", number, count)
        self._progress("calls, one by one", count, count)
        times.sort()
        p50, p99 = statistics.median(times), times[int(len(times) * 0.99) - 1]
        return Step(
            "calls, one by one",
            reply == payload,
            f"{count:,} calls: p50 {p50:.0f} us, p99 {p99:.0f} us",
            {"calls": count, "p50_us": p50, "p99_us": p99},
        )

    async def _rate(self, link: Link) -> Step:
        count = self._calls
        left = iter(range(count))
        good = 0

        async def caller() -> None:
            nonlocal good
            for number in left:
                payload = number.to_bytes(SEQUENCE_BYTES)
                if await link.call("echo", payload) == payload:
                    good += 1
                if number % BURST == 0:
                    self._progress("calls, 64 at once", number, count)

        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(OUTSTANDING)))
        rate = count / (time.perf_counter() - began)
        self._progress("calls, 64 at once", count, count)
        return Step(
            "calls, 64 at once",
            good == count,
            f"{good:,} of {count:,} replies were right: {rate:,.0f} calls a second",
            {"calls": count, "right": good, "per_second": rate},
        )

    async def _rotate(self, link: Link, child: ChildNode) -> Step:
        stop = asyncio.Event()
        traffic = asyncio.create_task(self._traffic(link, stop))
        try:
            self._issue(SECOND, "renewed")
            new = (await child.ask("rotate", stem="renewed"))["serial"]
            async with await self._start(THIRD) as third:
                fresh = await third.connect(SECOND)
                seen = serial_of(fresh)
                before = link.stats.messages_sent
                await link.call("echo", b"still here")
                await asyncio.sleep(0)
        finally:
            stop.set()
            sent = await traffic
        received, wrong = json.loads(await link.call("count", b""))
        old = serial_of(link)
        ok = seen == new != old and not link.closed and (received, wrong) == (sent, 0)
        return Step(
            "rotation under traffic",
            ok,
            f"a new link sees serial {seen[:8]}..., the old link lives on under "
            f"{old[:8]}...; {received:,} of {sent:,} messages arrived meanwhile",
            {
                "old": old,
                "new": new,
                "seen_by_new_link": seen,
                "old_link_up": not link.closed,
                "sent": sent,
                "sent_when_seen": before,
                "received": received,
                "wrong": wrong,
            },
        )

    async def _traffic(self, link: Link, stop: asyncio.Event) -> int:
        await link.call("count", b"")
        number = 0
        padding = bytes(PAYLOAD_BYTES - SEQUENCE_BYTES)
        while not stop.is_set():
            for _ in range(BURST):
                link.send("numbered", number.to_bytes(SEQUENCE_BYTES) + padding)
                number += 1
            await link.drain()
            await asyncio.sleep(0)
        return number

    async def _intruder(self, child: ChildNode, *, certificate: bool) -> Step:
        await child.ask("log")
        manager = CertAuthManager(
            Authority.create("somebody else's CA")
            .issue(NodeName.parse(INTRUDER))
            .certificate()
            if certificate
            else None,
            root_cas=self._authority.pool(),
        )
        said = "nothing: it was let in"
        kind = ""
        async with await self._start(INTRUDER, manager) as intruder:
            try:
                await intruder.connect(SECOND)
            except HandshakeError as error:
                kind = type(error).__name__
                said = f"{kind}: {error}"
        log = await child.ask("log")
        heard = log["lines"][-1] if log["lines"] else "nothing"
        expected = "UnknownAuthority" if certificate else "CertificateRequired"
        what = "another CA's certificate" if certificate else "no certificate"
        return Step(
            f"intruder with {what}",
            kind == expected and expected in heard,
            f"refused; both sides say {expected}" if kind else "NOT refused",
            {"dialer": said, "acceptor": heard, "refused": log["refused"]},
            [("the intruder", said), (SECOND, heard)],
        )

    # --- tools -----------------------------------------------------------------

    def _issue(self, name: str, stem: str) -> None:
        files = identity(self._directory, stem)
        assert files.key is not None
        self._authority.issue(NodeName.parse(name)).save(files.cert, files.key)

    async def _start(self, name: str, manager: CertAuthManager | None = None) -> Node:
        if manager is None:
            manager = identity(self._directory, stem_of(name)).manager()
            assert manager.client_auth is ClientAuth.REQUIRE_AND_VERIFY_CLIENT_CERT
        network = NetworkOptions(
            acceptors=(), routes=[Route(f"^{SECOND}$", *self._address)]
        )
        options = NodeOptions(
            cert_manager=manager, network=network, shutdown_timeout=5.0
        )
        return await start_node(name, options)


def serial_of(link: Link) -> str:
    """The serial number that the peer showed, hexadecimal."""
    certificate = link.peer.certificate
    return f"{certificate.serial_number:x}" if certificate is not None else ""
