"""``fastnode ping``: who a node is, and how long round trips to it take."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import deque
from typing import TYPE_CHECKING

import click

from fastnode.cli.dial import Dial, dial_options, run_dialer, time_limit
from fastnode.cli.records import address, json_option, print_record, rounded
from fastnode.cli.values import INTERVAL, NODE_NAME
from fastnode.errors import LinkClosed
from fastnode.groups import described_group
from fastnode.names import NodeName, joined

if TYPE_CHECKING:
    from fastnode import Link, Node, Peer

__all__ = ["RoundTrips", "ping"]

#: The median is taken of so many round trips, the latest ones, so that a command that
#: runs for days does not fill the memory.
LATEST = 100_000


class RoundTrips:
    """Times of round trips, in seconds.

    Attributes:
        count: how many there were.
        fastest: the shortest time.
        slowest: the longest time.
    """

    def __init__(self) -> None:
        self.count = 0
        self.fastest = float("inf")
        self.slowest = 0.0
        self._total = 0.0
        self._latest: deque[float] = deque(maxlen=LATEST)

    def add(self, seconds: float) -> None:
        """Count a round trip."""
        self.count += 1
        self.fastest = min(self.fastest, seconds)
        self.slowest = max(self.slowest, seconds)
        self._total += seconds
        self._latest.append(seconds)

    @property
    def mean(self) -> float:
        """The mean of all."""
        return self._total / self.count

    @property
    def median(self) -> float:
        """The median of the latest `LATEST`."""
        return statistics.median(self._latest)


class Lines:
    """What people read."""

    def connected(self, peer: Peer) -> None:
        """Print who the peer is."""
        click.echo(f"{peer.name} at {joined(*peer.address[:2])}")
        if peer.certificate is not None:
            click.echo(f"certificate  serial {peer.certificate.serial_number:x}")
        group = "" if peer.group is None else described_group(peer.group)
        click.echo(f"protocol     {peer.tls_version} {peer.cipher} {group}".rstrip())

    def round_trip(self, number: int, seconds: float) -> None:
        """Print one round trip."""
        click.echo(f"{number}: {seconds * 1e3:.3f} ms")

    def summary(self, trips: RoundTrips) -> None:
        """Print what all have in common."""
        plural = "" if trips.count == 1 else "s"
        click.echo(
            f"{trips.count} round trip{plural}: median {trips.median * 1e3:.3f} ms, "
            f"fastest {trips.fastest * 1e3:.3f} ms, "
            f"slowest {trips.slowest * 1e3:.3f} ms"
        )


class Records(Lines):
    """What programs read."""

    def connected(self, peer: Peer) -> None:
        """Print who the peer is."""
        shown = peer.certificate
        print_record(
            "connected",
            node=peer.name,
            address=address(peer.address),
            verified=peer.verified,
            serial=None if shown is None else f"{shown.serial_number:x}",
            tls=peer.tls_version,
            cipher=peer.cipher,
            group=peer.group,
        )

    def round_trip(self, number: int, seconds: float) -> None:
        """Print one round trip."""
        print_record("round_trip", number=number, seconds=rounded(seconds))

    def summary(self, trips: RoundTrips) -> None:
        """Print what all have in common."""
        print_record(
            "summary",
            count=trips.count,
            median=rounded(trips.median),
            mean=rounded(trips.mean),
            fastest=rounded(trips.fastest),
            slowest=rounded(trips.slowest),
        )


@click.command()
@click.argument("node", metavar="NODE", type=NODE_NAME)
@dial_options("The time to connect, and the time for each round trip.")
@click.option(
    "--count",
    type=click.IntRange(0),
    default=4,
    show_default=True,
    metavar="N",
    help="The number of round trips. 0 goes on until Ctrl-C.",
)
@click.option(
    "--interval",
    type=INTERVAL,
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="The time from one round trip to the next.",
)
@json_option("Print one JSON object on each line.")
def ping(
    node: NodeName, count: int, interval: float, dial: Dial, *, as_json: bool
) -> None:
    """Connect to NODE, show who it is, and measure round trips.

    Each round trip is shown when it is done. A summary comes at the end, also after
    Ctrl-C. After Ctrl-C the exit code is 0 if there was a round trip. If NODE renews
    the link, who it is is shown again.

    \b
    Example:
      fastnode ping orders@127.0.0.1 --dir certs --as me@127.0.0.1
    """
    shown = Records() if as_json else Lines()
    run_dialer(_ping(dial, node, count, interval, shown))


async def _ping(
    dial: Dial, node: NodeName, count: int, interval: float, shown: Lines
) -> None:
    async with dial.node(node) as own:
        async with time_limit(dial.timeout):
            link = await own.connect(str(node))
        trips = RoundTrips()
        try:
            await _measure(own, link, trips, count, interval, dial.timeout, shown)
        except asyncio.CancelledError:
            # Ctrl-C cancels this task once. It is the usual way to end a ping, so it is
            # no failure. A second Ctrl-C ends the program at once.
            task = asyncio.current_task()
            if task is None or not trips.count:
                raise
            task.uncancel()
        finally:
            if trips.count:
                shown.summary(trips)


async def _measure(
    own: Node,
    link: Link,
    trips: RoundTrips,
    count: int,
    interval: float,
    timeout: float,
    shown: Lines,
) -> None:
    """Make round trips until `count` are done; 0: until this task is cancelled.

    The peer may renew its links meanwhile, because it has a new certificate. Then the
    round trips go on with the new link.
    """
    shown.connected(link.peer)
    while True:
        began = time.perf_counter()
        try:
            async with time_limit(timeout):
                seconds = await link.ping()
        except LinkClosed:
            renewed = [each for each in own.links if each is not link]
            if not renewed:
                raise
            link = renewed[-1]
            shown.connected(link.peer)
            continue
        trips.add(seconds)
        shown.round_trip(trips.count, seconds)
        if trips.count == count:
            return
        await asyncio.sleep(max(0.0, began + interval - time.perf_counter()))
