"""Every default and ceiling: the unit is in the name, the reason beside it."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# --- addresses ---------------------------------------------------------------

DEFAULT_PORT: Final = 15000
#: How many ports an acceptor tries, upward from its own.
DEFAULT_PORT_RANGE: Final = 16
#: DNS limits a host to 253 octets; the rest is for the name before the ``@``.
MAX_NODE_NAME_BYTES: Final = 512
LISTEN_BACKLOG: Final = 1024

# --- time --------------------------------------------------------------------

#: TLS and HELLO together. Two round trips and 4 ms of CPU are needed; the rest is
#: for a slow network.
HANDSHAKE_TIMEOUT_SECONDS: Final = 10.0
SHUTDOWN_TIMEOUT_SECONDS: Final = 30.0
#: A link on which nothing was heard for so long is probed, again and again; after
#: KEEPALIVE_MISSES probes without an answer it is lost.
KEEPALIVE_INTERVAL_SECONDS: Final = 15.0
KEEPALIVE_MISSES: Final = 3
#: How long a closing side reads and discards, so that the kernel does not answer
#: late bytes with a reset that would destroy the alert or goodbye in flight.
LINGER_SECONDS: Final = 1.0
#: How long an orderly close waits for the peer's own goodbye.
CLOSE_TIMEOUT_SECONDS: Final = 5.0

# --- frames ------------------------------------------------------------------

#: Header and body of the largest frame are together four full TLS records.
MAX_FRAME_BYTES: Final = 64 * KIB
#: A HELLO holds a node name and fixed fields; its sender is not yet trusted.
MAX_HELLO_BYTES: Final = 4 * KIB
DEFAULT_MAX_MESSAGE_BYTES: Final = 64 * MIB
MAX_ENDPOINT_NAME_BYTES: Final = 255
#: Endpoint names that a link remembers for each direction; beyond it the oldest
#: number is given to the new name.
ENDPOINT_DICTIONARY_SIZE: Final = 1024
#: Text of a remote error or goodbye is cut to this.
MAX_REASON_BYTES: Final = 1 * KIB

# --- flow and memory ---------------------------------------------------------

#: What a peer may send on one link before it is granted more.
WINDOW_BYTES: Final = 1 * MIB
#: Where the window of the bulk lane begins: what is under way there is what a ping has
#: to wait for. Measured on loopback: p99 of a ping 0.4 ms at 128 KiB, 1 ms at 256 KiB,
#: 5 ms at 512 KiB, and the throughput is the same.
BULK_WINDOW_BYTES: Final = 128 * KIB
#: How far windows grow where the round trip is long: 320 MB/s at 50 ms.
MAX_WINDOW_BYTES: Final = 16 * MIB
#: No window may be larger, nor credit: what a peer may announce.
WINDOW_LIMIT_BYTES: Final = 1 << 30
#: Windows do not grow where the round trip is shorter: 128 MB/s go through the least.
GROWTH_LEAST_ROUND_TRIP_SECONDS: Final = 0.001
#: Round trips that are measured before a window grows; the shortest counts.
GROWTH_SAMPLES: Final = 3
#: ``drain()`` waits above the high mark until the queue is below the low mark.
HIGH_WATER_BYTES: Final = 1 * MIB
LOW_WATER_BYTES: Final = 256 * KIB
#: ``link.send`` raises `SendQueueFull` above it. A single message of any legal size
#: is taken by an empty queue.
SEND_QUEUE_BYTES: Final = 64 * MIB
#: The same for all links of a node together: two receivers that stand still may fill
#: their queues, and two more begin to be felt by everybody (`drain` waits above 3/4).
NODE_QUEUE_BYTES: Final = 256 * MIB
#: Replies and other control frames that may be queued before no further calls are
#: handled: what a peer that calls and does not read can make a node hold.
CONTROL_HIGH_WATER_BYTES: Final = 1 * MIB
#: Calls of the inner lane that may be under way on a link beyond its window, because
#: their handlers wait for calls of their own: chains of calls between two nodes.
MAX_EXCUSED_BYTES: Final = 16 * MIB
#: Handlers of one endpoint that may be allowed at once; more is as good as no bound.
MAX_CONCURRENCY: Final = 1_000_000
#: Cancellations that may wait for their calls, which they can overtake on a link.
MAX_EARLY_CANCELS: Final = 4096
#: Answers to pings that may be queued; a peer that lets more wait does not read.
MAX_QUEUED_PONGS: Final = 4096
#: Queued bytes that are encrypted and written without waiting for the end of the
#: loop turn. Measured: 16 KiB reaches 0.6 and 1 MiB 0.78 of its rate at 1 KiB messages.
FLUSH_BYTES: Final = 64 * KIB
#: Ciphertext that the transport may hold before it tells us to pause.
TRANSPORT_HIGH_WATER_BYTES: Final = 256 * KIB
#: Ciphertext read per system call into one buffer that all links of a node share.
RECEIVE_BUFFER_BYTES: Final = 256 * KIB
#: Receive and send slabs that a pool may hold in all, free or taken.
POOL_CEILING_BYTES: Final = 256 * MIB

#: Older links with one peer that may still be finishing calls when a further one takes
#: the place of the newest: each costs a connection and up to a window of memory.
MAX_RETIRING_LINKS: Final = 4

# --- acceptors ---------------------------------------------------------------

MAX_LINKS: Final = 10_000
#: Handshakes under way on one acceptor; beyond it, accepting pauses.
MAX_HANDSHAKES: Final = 256
