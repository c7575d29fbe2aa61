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
#: Names of nodes that are remembered in their parts: peers dial again and again.
PARSED_NAMES: Final = 1024
#: Verified certificates that are remembered as they were read, and whether they cover
#: a name, for the same reason: that is a twentieth of a handshake. Strangers' are not.
READ_CERTIFICATES: Final = 256
LISTEN_BACKLOG: Final = 1024
#: The first bytes of an instance id, which the workers of one group share. Two runs of
#: a name that share them by chance, once in 2**64, would keep a link each.
GROUP_BYTES: Final = 8
#: How often an acceptor asks the system for a port. At the one that its first address
#: gets, another of its addresses may be taken, by chance.
ANY_PORT_TRIES: Final = 16

#: Addresses that one dial tries. A resolver that knows more instances of a peer than
#: this has returned more than a dial can try in time.
MAX_DIAL_ADDRESSES: Final = 64
#: Connections of one dial that may be under way at once: each costs a descriptor, and
#: the CPU time of a ClientHello. They begin one after the other, within 4 s.
MAX_DIAL_ATTEMPTS: Final = 16
#: Addresses that a node remembers because they could not be reached: 200 bytes each.
MAX_FAILED_ADDRESSES: Final = 1024
#: Dials that go on although all of their callers have given up. With more of them the
#: oldest is cancelled: a caller with a short timeout begins new ones all the time.
MAX_UNAWAITED_DIALS: Final = 64

# --- time --------------------------------------------------------------------

#: TLS and HELLO together. Two round trips and 4 ms of CPU are needed; the rest is
#: for a slow network.
HANDSHAKE_TIMEOUT_SECONDS: Final = 10.0
#: A dial begins with its next address when nothing was heard from the earlier ones for
#: so long. RFC 8305, section 5, recommends this value.
CONNECTION_ATTEMPT_DELAY_SECONDS: Final = 0.25
#: How long a dial waits for the addresses of its first host name while it knows others.
#: RFC 8305, section 3, recommends this value.
RESOLUTION_DELAY_SECONDS: Final = 0.05
#: How long an address that could not be reached comes after the others: as long as the
#: longest pause between two dials of `Node.keep_connected`.
FAILED_ADDRESS_SECONDS: Final = 30.0
#: All addresses of a dial together may take so many times `handshake_timeout`: the
#: first for addresses that are silent, and the others for peers that answer and then
#: stop in the middle of their handshake.
DIAL_TIMEOUTS: Final = 4
SHUTDOWN_TIMEOUT_SECONDS: Final = 30.0
#: How long a node that stops goes on serving while its peers turn away. Idle peers need
#: a round trip; the others need as long as their calls take. It counts as a part of the
#: time for stopping, and takes at most half of it.
LEAVE_GRACE_SECONDS: Final = 5.0
#: A link on which nothing was heard for so long is probed, again and again; after
#: KEEPALIVE_MISSES such intervals of silence it is lost. The smaller interval of both
#: sides counts. Two probes may be lost, and networks that forget idle connections do
#: so after a minute at the earliest.
KEEPALIVE_INTERVAL_SECONDS: Final = 15.0
KEEPALIVE_MISSES: Final = 3
#: A link that reads so often between two looks of the keepalive is busy, and OpenSSL
#: keeps two buffers of 17 KiB on it: to make and free them takes 2,300 instructions of
#: a call. An idle link reads a ping and an answer or two.
BUSY_LINK_READS: Final = 16
#: An interval of a peer below it counts as this: ten probes a second cost nothing.
LEAST_PEER_KEEPALIVE_SECONDS: Final = 0.1
#: How long a link may be silent when its peer behaves as if it did not know it: TCP
#: repeats a lost segment after 0.2, 0.6 and 1.4 s, and so does the answer.
CHECK_SECONDS: Final = 3.0
#: A link that a newer one takes the place of is probed that often, KEEPALIVE_MISSES
#: times, while messages of the newer one wait for the last of its own: they are not to
#: wait as long as the keepalive takes. A busy peer answers within some seconds.
HANDOVER_INTERVAL_SECONDS: Final = 1.5
#: How long a closing side reads and discards, so that the kernel does not answer
#: late bytes with a reset that would destroy the alert or goodbye in flight.
LINGER_SECONDS: Final = 1.0
#: How long `Node.stop` waits for a handler or hook that was cancelled: it may have
#: something to put in order, and it may be one that swallows cancellation.
CANCEL_SECONDS: Final = 1.0
#: How long an orderly close may take: queued messages leave, handlers finish, and the
#: peer says goodbye.
CLOSE_TIMEOUT_SECONDS: Final = 5.0

#: `Node.keep_connected`: the pause before a dial is a random part of a ceiling. The
#: first ceiling is what a restart takes at least; it doubles up to the most, so that a
#: peer that is back after hours is found within half a minute, and one that is away
#: costs two dials a minute.
REDIAL_FIRST_SECONDS: Final = 0.1
REDIAL_MOST_SECONDS: Final = 30.0
#: A link that was up for so long starts the ceiling over: longer than a handshake may
#: take, so a peer that accepts and breaks is not dialed without end.
REDIAL_STABLE_SECONDS: Final = 10.0

#: `renew_links` and `max_link_age`: each link is renewed at a random time of a window,
#: which grows by so much for each link that is due. One handshake takes milliseconds.
RENEWAL_PAUSE_SECONDS: Final = 0.5
#: The window is not longer than this: nobody waits longer for a new certificate.
RENEWAL_SPREAD_SECONDS: Final = 60.0
#: How long one renewal may take, while others wait for it: as long as a dial may take
#: that tries several addresses.
RENEWAL_TIMEOUT_SECONDS: Final = 20.0
#: `max_link_age`: a link is renewed at a random part of its age. The rest is for
#: attempts that fail. Links that came up at the same time are renewed at other times.
RENEWAL_AGE_LEAST: Final = 0.75
RENEWAL_AGE_MOST: Final = 0.9
#: The least `max_link_age`. Tests need it; services have minutes or hours.
LEAST_LINK_AGE_SECONDS: Final = 0.01

#: A callback that blocks the loop for so long is warned about: others on this loop wait
#: as long, and a person begins to notice. asyncio's debug mode takes the same.
SLOW_CALLBACK_SECONDS: Final = 0.1

#: How long a loop does without sleep while the reply of a call is expected. To sleep
#: and be woken costs 50 us of time, and as much CPU time of both sides. Who waits awake
#: about as long as that, and then sleeps, pays a small multiple of what it costs to
#: know when the reply comes (Karlin, Li, Manasse, Owicki, SOSP 1991).
BUSY_POLL_SECONDS: Final = 0.0001
#: More than that is a core for every caller.
BUSY_POLL_LIMIT_SECONDS: Final = 0.01
#: Calls of a link that may be under way, so that a reply is polled for. With more,
#: loops hardly sleep: 8 callers have 1.5 times the rate, 16 still 1.2; but where a loop
#: is awake anyway, it makes p50 of a dozen calls under way 140 us for 125.
BUSY_POLL_CALLS: Final = 8
#: A turn that offers the processor to others, and has it back later than this, had
#: others waiting: it takes less than 2 us where nobody wants it, else 10 to 4,000.
BUSY_POLL_YIELD_SECONDS: Final = 0.00001
#: How long nothing is polled for after that, on the node; and for calls, or pings, of a
#: link after a reply that came too late: it doubles each time, and halves with each
#: reply in time. At least twice `busy_poll`; where it is always in vain, a link polls
#: for that once in the longest rest.
BUSY_POLL_LEAST_REST_SECONDS: Final = 0.00025
BUSY_POLL_MOST_REST_SECONDS: Final = 1.0

# --- frames ------------------------------------------------------------------

#: Header and body of the largest frame are together four full TLS records.
MAX_FRAME_BYTES: Final = 64 * KIB
#: A HELLO holds a node name and fixed fields; its sender is not yet trusted.
MAX_HELLO_BYTES: Final = 4 * KIB
DEFAULT_MAX_MESSAGE_BYTES: Final = 64 * MIB
MAX_ENDPOINT_NAME_BYTES: Final = 255
#: Endpoint names that each lane of a link remembers, in each direction. At the bound
#: the oldest number is given to the new name.
ENDPOINT_DICTIONARY_SIZE: Final = 1024
#: Text of a remote error or goodbye is cut to this.
MAX_REASON_BYTES: Final = 1 * KIB
#: The code of a `CallError`: three times the longest name of gRPC, which has 19
#: characters. A code may become the label of a counter, so it stays short.
MAX_CODE_BYTES: Final = 64
#: Details of a `CallError`. An error is a control frame, which needs no credit, so it
#: stays small: a quarter of the largest frame.
MAX_DETAILS_BYTES: Final = 16 * KIB

#: Metadata of one message, call or reply, as in HTTP/2 servers: what proxies and
#: frameworks allow for all header fields together. Names and values count.
MAX_METADATA_ENTRIES: Final = 64
MAX_METADATA_BYTES: Final = 16 * KIB
MAX_METADATA_NAME_BYTES: Final = 255
#: Endpoints that do not exist, of which a peer is told within a second how many of its
#: one-way messages were dropped. A peer can make up any number of names.
MAX_DROPPED_NAMES: Final = 64
#: The smallest frame that a peer must take so that extension blocks are used with it: a
#: block is never cut.
LEAST_EXTENDED_FRAME_BYTES: Final = 32 * KIB
#: The extension block of a frame: the largest metadata or details, and 1 KiB for their
#: lengths and for what later versions add.
MAX_EXTENSION_BYTES: Final = 17 * KIB

#: TLS records that are sent under one key: a third of what RFC 8446, section 5.5,
#: allows AES-GCM (2**24.5). 137 GB of full ones, a minute or two of full speed.
RECORDS_OF_KEY: Final = 1 << 23

# --- flow and memory ---------------------------------------------------------

#: What a peer may send on one link before it is granted more.
WINDOW_BYTES: Final = 1 * MIB
#: Where the windows of large messages and of large replies begin, and into how many
#: grants each is divided: what is under way there is what a ping has to wait for, and
#: what a sender has to wait for when it is used up. Measured on loopback, messages of
#: 1 MiB: p99 of a ping beside them over that of an idle link, and their rate, are 2.0
#: and 0.87 at 256 KiB, 2.7 and 0.90 at 384 KiB, 3.4 and 0.96 at 512 KiB, 6 to 10 and 1
#: at 1 MiB in two grants.
BULK_WINDOW_BYTES: Final = 512 * KIB
BULK_GRANTS: Final = 4
#: How far windows grow where the round trip is long: 320 MB/s at 50 ms.
MAX_WINDOW_BYTES: Final = 16 * MIB
#: No window may be larger, nor credit: what a peer may announce.
WINDOW_LIMIT_BYTES: Final = 1 << 30
#: Windows do not grow where the round trip is shorter: 250 MB/s go through the least. A
#: window that is full makes a round trip longer by itself, on loopback 0.4 ms.
GROWTH_LEAST_ROUND_TRIP_SECONDS: Final = 0.002
#: Round trips that are measured before a window grows, and one more each time that it
#: has grown; the shortest counts.
GROWTH_SAMPLES: Final = 8
#: ``drain()`` waits above the high mark until the queue is at the low mark or below.
HIGH_WATER_BYTES: Final = 1 * MIB
LOW_WATER_BYTES: Final = 256 * KIB
#: ``link.send`` raises `SendQueueFull` above it. A single message of any legal size
#: is taken by an empty queue.
SEND_QUEUE_BYTES: Final = 64 * MIB
#: The same for all links of a node together: two receivers that stand still may fill
#: their queues, and two more begin to be felt by everybody (`drain` waits above 3/4).
NODE_QUEUE_BYTES: Final = 256 * MIB
#: Replies and other control frames that may be queued, behind the one large reply that
#: is being sent, before no further calls are handled: what a peer that calls and does
#: not read can make a node hold.
CONTROL_HIGH_WATER_BYTES: Final = 1 * MIB
#: Calls of the inner lane that may be under way on a link beyond its window, because
#: their handlers wait for calls of their own: chains of calls between two nodes.
MAX_EXCUSED_BYTES: Final = 16 * MIB
#: What a batch handler is given in one call, at most. Payloads that live at the same
#: time cost fresh memory, which no cache holds (625 ns for 1 KiB, where one that is
#: freed at once costs 122), and a few dozen messages pay for a Python call: with 64 B,
#: batches of 64 to 1024 cost the same.
MAX_BATCH_MESSAGES: Final = 1024
MAX_BATCH_BYTES: Final = 64 * KIB
#: Asynchronous handlers of one lane of a link that are under way, 1 KiB for each and
#: its payload: 16 thousand of small ones, which take 2. What comes then waits.
MAX_UNDER_WAY_BYTES: Final = 16 * MIB
#: A window that was full for so long, without a grant, holds up other endpoints: the
#: ones that fill it are paused. Handlers that are only busy empty it sooner. If that
#: did not help, it is tried again after twice the time, up to the most: looking for
#: these endpoints takes up to some milliseconds.
CONGESTION_SECONDS: Final = 0.01
CONGESTION_MOST_SECONDS: Final = 1.0
#: What a link may hold for endpoints that it has paused, beyond its window: payloads
#: and 128 bytes for each. A window of empty messages fits, and 14 of 1 KiB messages.
MAX_SET_ASIDE_BYTES: Final = 16 * MIB
#: A paused endpoint is resumed when this part of a window is left of what was set
#: aside: at 10 MB/s that lasts for a round trip of 25 ms.
RESUME_PARTS: Final = 4
#: Deliveries that may wait at an endpoint: more is as good as no bound.
MAX_WAITING: Final = 1_000_000_000
#: `NetworkOptions.shed_above`: how often the lag of the loop is measured, as a part of
#: the bound, and at least and at most. Each takes some microseconds.
LAG_PARTS: Final = 4
LAG_LEAST_SECONDS: Final = 0.005
LAG_MOST_SECONDS: Final = 0.25
#: `Node.stats`: endpoints that have counters of their own. Each takes 2 KiB.
MAX_COUNTED_ENDPOINTS: Final = 100
#: Codes of errors that are counted one by one. Peers choose codes.
MAX_COUNTED_CODES: Final = 100
#: How often a worker tells its group what it has counted: what it counted since then is
#: lost when it is killed. A report takes a millisecond with 100 endpoints.
WORKER_STATS_SECONDS: Final = 1.0
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
#: glibc maps payloads from here on for themselves (DEFAULT_MMAP_THRESHOLD_MAX); smaller
#: ones come from its heap, which keeps its pages.
SPARE_LEAST_BYTES: Final = 32 * MIB
#: What is unmapped in one turn of the loop of a payload that nobody needs any more: 40
#: us. 63 such turns are shorter than sending 63 MiB; with 4 MiB, p99 of a ping beside
#: payloads that their sender drops is 8 times that of an idle link, with this 6.
SPARE_PIECE_BYTES: Final = 1 * MIB
#: Such payloads of a node that are kept: one for the next large message, and one on its
#: way back to the system.
MAX_SPARES: Final = 2
#: How often is looked whether the first was used; if not, it goes. A stream of large
#: messages has shorter pauses, and for another one fresh memory will do.
SPARE_SECONDS: Final = 1.0
#: Receive and send slabs that a pool may hold in all, free or taken.
POOL_CEILING_BYTES: Final = 256 * MIB

#: Older links with one peer that may still be finishing calls when a further one takes
#: the place of the newest: each costs a connection and up to a window of memory.
MAX_RETIRING_LINKS: Final = 4

# --- acceptors ---------------------------------------------------------------

MAX_LINKS: Final = 10_000
#: The part of the links of an acceptor that peers with one certificate identity may
#: have: the replicas of a service often share a certificate, and no service may lock
#: out the others.
PEER_SHARE_OF_LINKS: Final = 0.25
#: TLS handshakes under way on one acceptor, from all addresses: each costs up to
#: STRANGER_BYTES and 2 ms of CPU.
MAX_HANDSHAKES: Final = 256
#: Memory that an accepted connection takes at most until its dialer has authenticated.
#: Measured with glibc: 54 to 62 KiB with OpenSSL 3.0, and 62 to 71 with 3.5 and 3.6,
#: whose record layer is larger. OpenSSL itself holds 44 to 58 of them. The most is for
#: a dialer that shows a copy of somebody else's certificate. Up to 12 KiB more where
#: Python's OpenSSL cannot be reached.
STRANGER_BYTES: Final = 80 * KIB
#: The same from one address (IPv6: one /64): one host cannot take all of them.
MAX_HANDSHAKES_PER_ADDRESS: Final = 32
#: Connections of one acceptor that have not shown a whole first TLS record, or wait
#: for their turn: a descriptor and some 2 KiB each. So many handshakes take 5 to 6 s of
#: CPU, which is within HANDSHAKE_TIMEOUT. And the part of the process's descriptors
#: that they may take at most.
MAX_PENDING: Final = 4096
WAITING_SHARE_OF_DESCRIPTORS: Final = 0.25
#: A handshake may make others wait for so long; then it makes room for one of them.
#: More than two round trips around the world and the CPU time of a busy host.
HANDSHAKE_PATIENCE_SECONDS: Final = 1.0
#: The same at most. It is longer than the least where handshakes that become links take
#: long: peers that all dial at once are slow, and each that is ended dials again.
MAX_HANDSHAKE_PATIENCE_SECONDS: Final = 5.0
#: The largest ClientHello. OpenSSL sends four key shares at most. The four largest
#: post-quantum ones take 5.7 KiB; the rest, with a session ticket, takes 1 to 2 KiB.
#: OpenSSL would take memory for 128 KiB when that is announced, and keeps parts of a
#: ClientHello until the handshake is over: with 16 KiB a stranger would cost more than
#: STRANGER_BYTES.
MAX_CLIENT_HELLO_BYTES: Final = 8 * KIB
#: What is read at once of a dialer until its TLS handshake is complete. Of a larger
#: record no more is read until all of it is there. Most handshakes need two reads.
HANDSHAKE_PART_BYTES: Final = 2 * KIB
#: What a dialer may send until its TLS handshake is complete: two ClientHellos (the
#: second answers a HelloRetryRequest), its chain of certificates, and its signature.
MAX_CLIENT_HANDSHAKE_BYTES: Final = 40 * KIB
#: Of that, its chain of certificates: 8 of RSA-2048, 16 of P-256. OpenSSL itself allows
#: 100 KiB, and takes that memory when it is announced.
MAX_CLIENT_CHAIN_BYTES: Final = 16 * KIB
#: The same of an acceptor, which may also name many authorities.
MAX_SERVER_HANDSHAKE_BYTES: Final = 256 * KIB
#: Of that, its chain of certificates; and the message in which it names authorities.
#: OpenSSL takes 0.2 ms to read a KiB of names.
MAX_SERVER_CHAIN_BYTES: Final = 16 * KIB
#: What a peer may send after its TLS handshake until it is admitted: a HELLO of 4 KiB,
#: and the session tickets of other TLS libraries. Smaller records than needed have no
#: other bound then.
MAX_INTRODUCTION_BYTES: Final = 8 * KIB
#: KeyUpdates and session tickets that it may send then: up to 40 us of CPU for 27
#: bytes. A fastnode peer sends none. The servers of other TLS libraries send up to four
#: tickets, and nobody renews a key that was not used.
MAX_POST_HANDSHAKE_MESSAGES: Final = 8
#: Certificates that a peer may show. Each costs 90 us when OpenSSL decodes it. Real
#: chains have two to five.
MAX_CHAIN_CERTIFICATES: Final = 10
#: RSA keys in a chain. OpenSSL itself allows 16384 bits, and an exponent as long as the
#: modulus up to 3072 bits. To verify one signature takes 0.3 ms with 8192 bits and the
#: exponent 65537, 4.5 ms with 16384 bits and 64 bits of exponent, and 6.3 ms with 3072
#: bits and a long exponent. Exponents above 32 bits are refused by other systems too.
MAX_RSA_MODULUS_BITS: Final = 8192
MAX_RSA_EXPONENT_BITS: Final = 32
#: Subject alternative names, or name constraints, of one certificate. Authorities issue
#: up to a few hundred.
MAX_CERTIFICATE_NAMES: Final = 1000
#: The names of all certificates of a chain times its name constraints. OpenSSL allows
#: 2**20 comparisons for each certificate of an authority: 0.1 s.
MAX_NAME_COMPARISONS: Final = 1 << 15

# --- services ----------------------------------------------------------------

#: Links that a service keeps at most. Each costs some 40 KiB on both sides.
MAX_INSTANCES: Final = 32
#: What `max_instances` may be. More links than this in one process need another design.
MAX_SERVICE_INSTANCES: Final = 4096
#: How long the share of a new instance grows until it is whole. It is short, because
#: traffic has to be even again 1 s after the news.
SLOW_START_SECONDS: Final = 1.0
#: How long an instance that has refused a call as busy is passed over, if it has not
#: said how long. It is about the time of a few calls: a queue is shorter by then.
BUSY_SECONDS: Final = 0.05
#: So many failures without a success between them, and an instance is ejected (the
#: value of Envoy).
EJECT_AFTER_FAILURES: Final = 5
#: Success rates are compared once in this time, among instances that had enough calls
#: in it.
OUTLIER_INTERVAL_SECONDS: Final = 5.0
OUTLIER_LEAST_CALLS: Final = 20
#: An instance is ejected if its success rate is so far below the mean of the others.
OUTLIER_DIFFERENCE: Final = 0.3
#: The first ejection takes so long. Each further one takes twice as long as the one
#: before, up to the most; a time without failures resets it.
EJECT_FIRST_SECONDS: Final = 1.0
EJECT_MOST_SECONDS: Final = 60.0
#: How often a call is sent elsewhere that certainly was not begun.
RETRIES_NOT_BEGUN: Final = 3
#: How often a call that is idempotent is sent again although it may have begun.
RETRIES_IDEMPOTENT: Final = 2
#: Retries and hedges of idempotent calls are bounded: this part of all calls, plus so
#: many in each second. Otherwise they would multiply the load of a service that fails.
RETRY_BUDGET_SHARE: Final = 0.1
RETRY_BUDGET_PER_SECOND: Final = 10.0
#: Dials of one service that are under way at once.
SERVICE_DIALS: Final = 8
#: How long calls with a key, and broadcasts, wait for targets that do not answer, after
#: the first answer of the discovery. Then those instances count that are linked.
SETTLE_SECONDS: Final = 1.0
#: A link with an instance that the discovery does not name any more is closed after so
#: long. A wrong answer that is corrected soon costs no links then.
FORGET_SECONDS: Final = 10.0

# --- discovery ---------------------------------------------------------------

#: Targets of one service. A set takes 100 bytes for each, and a directory that somebody
#: poisoned could name any number.
MAX_TARGETS: Final = 4096
#: What a node writes into a directory. 64 acceptors with usual names take a tenth.
MAX_ENTRY_BYTES: Final = 32 * KIB
#: The pause before a directory that could not be asked is asked again. The first
#: ceiling is a short disturbance, and the highest one is two questions a minute.
DISCOVERY_FIRST_PAUSE_SECONDS: Final = 0.1
DISCOVERY_MOST_PAUSE_SECONDS: Final = 30.0
#: How long a discovery may take to announce a node: all members of a cluster have their
#: turn meanwhile.
ANNOUNCE_SECONDS: Final = 30.0
#: How long a discovery may take to withdraw a node. A node that stops waits for it,
#: while its peers turn away.
WITHDRAW_SECONDS: Final = 5.0
#: An answer of the DNS without a TTL is asked for again after so long.
DNS_LEAST_TTL_SECONDS: Final = 1.0
#: A change in the DNS is seen within this time, whatever the TTL says.
DNS_MOST_TTL_SECONDS: Final = 30.0
#: The same for an answer without records. Zones often allow to remember those for an
#: hour, and then a new service would not be found.
DNS_MOST_EMPTY_TTL_SECONDS: Final = 5.0
#: One question to all name servers together. Programs of the system take the same.
DNS_TIMEOUT_SECONDS: Final = 5.0
#: How long a lease in etcd lives after its process was killed. It has to outlast an
#: election, and two keepalives that are lost.
ETCD_TTL_SECONDS: Final = 10.0
#: A call to one endpoint of etcd. Three endpoints have their turn within the TTL.
ETCD_TIMEOUT_SECONDS: Final = 2.0

# --- health ------------------------------------------------------------------

#: How often a check of `Node.add_check` is run. Kubernetes asks every 10 s.
CHECK_INTERVAL_SECONDS: Final = 10.0
#: How long one run of a check may take: as long as a user would wait for a page.
CHECK_TIMEOUT_SECONDS: Final = 5.0
#: Checks of a node. With names and reasons of full length, the answer about the health
#: of a node stays below 32 KiB.
MAX_CHECKS: Final = 32
#: The name of a check. It is a word in answers and log lines.
MAX_CHECK_NAME_BYTES: Final = 64

# --- workers -----------------------------------------------------------------

#: From the start of a process to a worker that is up: an interpreter and the imports of
#: the application from a slow disk, and what its setup connects with.
WORKER_START_SECONDS: Final = 60.0
#: What a worker may take beyond its time for stopping: for the application's cleanup,
#: and once more for the end of the interpreter. Then it is killed.
WORKER_GRACE_SECONDS: Final = 5.0
#: How long the loop of a worker may be blocked. A handler that computes for seconds is
#: a mistake, but no reason to lose all links of a worker.
WORKER_HANG_SECONDS: Final = 60.0
#: How long a worker that stops waits for handshakes under way: as HANDSHAKE_PATIENCE,
#: and as much for what was handed to it in its last moment.
WORKER_SETTLE_SECONDS: Final = 2.0
#: More is a mistake: processes compete for cores.
MAX_WORKERS: Final = 1024

# --- the client without asyncio ----------------------------------------------

#: What was sent through a client that was not closed has so long to leave, when the
#: interpreter ends or nothing refers to the client any more. It takes milliseconds,
#: unless a peer reads slowly. Then it delays the end of the program.
CLIENT_EXIT_SECONDS: Final = 2.0

# --- logs --------------------------------------------------------------------

#: Lines of one reason that others can cause are not closer together.
LOG_INTERVAL_SECONDS: Final = 1.0
