"""Links whose peer would be refused today are closed (`NetworkOptions.recheck`).

How it works. When a verified peer is admitted, `Recheck.remember` keeps the chain that
the peer presented, and by which rules it was verified: cert manager, side and server
name. Links with the same chain and the same rules are one `Case`, which keeps the chain
once. A case is due when its cert manager has got another pool, and when one of its
certificates expires. Then `fastnode.openssl.again` verifies the chain by the rules that
the next handshake would have. If the verdict is bad, or a node name is not covered any
more, the links are closed, and both sides are told the reason of a refusal.

Chains are verified in a thread, a few at a time, without the GIL. What is left for the
loop is done in slices. After each slice the loop is left alone for four times as long,
so at most a fifth of its time is taken.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from fastnode.errors import (
    CloseReason,
    ConfigError,
    FastnodeError,
    HandshakeError,
    Side,
    renewed,
)
from fastnode.link import endings
from fastnode.link.machine import State
from fastnode.loggers import fields
from fastnode.names import NodeName
from fastnode.openssl.again import judge_again
from fastnode.openssl.handle import Handle, why_unreachable, wrap
from fastnode.tls.evidence import Evidence
from fastnode.tls.identity import read_again, readable
from fastnode.tls.verdicts import explain

if TYPE_CHECKING:
    import ssl

    from fastnode.certs.manager import CertManager
    from fastnode.link.protocol import LinkProtocol
    from fastnode.node.admission import Admission
    from fastnode.openssl.verdict import Verdict
    from fastnode.peer import Peer

__all__ = ["Recheck"]

#: A connection that has the rules, and a chain.
Pair: TypeAlias = tuple[Handle, tuple[bytes, ...]]

log = logging.getLogger("fastnode.node")

#: Seconds of work in one go, and how many times as long the loop is left alone after.
SLICE_SECONDS: Final = 0.002
REST: Final = 4.0
#: Seconds after the end of a certificate at which it is judged: OpenSSL counts whole
#: seconds.
LATE_SECONDS: Final = 0.05
#: The clock is looked at this often, in seconds: it may be set, or the machine sleep.
LOOK_SECONDS: Final = 30.0
#: Names of closed links that one log line has.
NAMED: Final = 5
#: Cases that are verified in one go: 10 ms. The thread has to wait for the GIL once for
#: each, up to 5 ms where the loop is busy.
BATCH: Final = 32


class Rules(NamedTuple):
    """By what a peer was verified.

    Attributes:
        manager: the cert manager that supplied the context.
        dialer: whether this node dialed.
        server_name: what was looked for in the certificate of the server.
    """

    manager: CertManager
    dialer: bool
    server_name: str | None


@dataclass(eq=False, slots=True)
class Case:
    """Links whose peers presented the same chain and were verified by the same rules.

    Attributes:
        rules: these rules.
        chain: the certificates that were presented, the peer's own first, DER.
        ends: when each of them expires, in seconds of `time.time`.
        due_at: when the next of them expires.
        links: the links, with the node name of each peer.
    """

    rules: Rules
    chain: tuple[bytes, ...]
    ends: tuple[float, ...]
    due_at: float
    links: dict[LinkProtocol, NodeName] = field(default_factory=dict)

    def next_end(self, now: float) -> float:
        """When the next of the certificates expires after `now`; or infinity."""
        return min((end for end in self.ends if end > now), default=math.inf)


class Recheck:
    """Closes the links of one node whose peers would be refused today.

    Args:
        node: the name of the node, for the log.
        admission: the rules for node names.
        wanted: the arguments with which the node asks cert managers for contexts.
        margin: seconds after a change of trust in which a peer that is admitted may
            have been verified before the change.

    Raises:
        ConfigError: the OpenSSL of this interpreter cannot be reached, so nobody can be
            judged without a handshake.
    """

    def __init__(
        self,
        node: str,
        admission: Admission,
        wanted: dict[str, tuple[str, ...]],
        margin: float,
    ) -> None:
        reason = why_unreachable()
        if reason is not None:
            raise ConfigError(
                'NetworkOptions.recheck="close" is not available: the OpenSSL of this '
                f"interpreter cannot be reached: {reason}",
                side=Side.LOCAL,
                hint='use recheck="keep", or an interpreter whose ssl module is linked '
                "with a shared OpenSSL",
            )
        self._node = node
        self._admission = admission
        self._wanted = wanted
        self._margin = margin
        self._cases: dict[tuple[Rules, tuple[bytes, ...]], Case] = {}
        self._watched: dict[CertManager, int] = {}
        # A dict, because it keeps the order in which cases became due.
        self._due: dict[Case, None] = {}
        self._wake_at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = False

    # --- who is to be judged ------------------------------------------------------

    def remember(
        self,
        protocol: LinkProtocol,
        peer: Peer,
        manager: CertManager,
        server_name: str | None = None,
    ) -> None:
        """Judge this peer again from now on, until its connection is gone.

        Args:
            protocol: its connection. The peer has just been admitted.
            manager: the cert manager whose context verified the peer.
            server_name: the name that was looked for in its certificate, or None.
        """
        verdict = protocol.presented.verdict
        if self._stopped or not peer.verified or verdict is None:
            return
        self._loop = asyncio.get_running_loop()
        rules = Rules(manager, protocol.dialer, server_name)
        key = rules, verdict.presented
        case = self._cases.get(key)
        if case is None:
            # One that has expired meanwhile is judged at the first look.
            ends = ends_of(verdict.presented)
            case = Case(rules, verdict.presented, ends, min(ends, default=math.inf))
            self._cases[key] = case
            self._watch(manager)
            if case.due_at < self._wake_at or self._timer is None:
                self._wake_at = min(self._wake_at, case.due_at)
                self._set_timer()
        case.links[protocol] = NodeName.parse(peer.name)
        protocol.gone.add_done_callback(partial(self._forget, protocol, key, case))
        if time.monotonic() - manager.trust_changed_at < self._margin:
            self._judge_soon([case])

    def _forget(
        self,
        protocol: LinkProtocol,
        key: tuple[Rules, tuple[bytes, ...]],
        case: Case,
        _gone: object,
    ) -> None:
        case.links.pop(protocol, None)
        if self._stopped:
            return
        if not case.links and self._cases.get(key) is case:
            del self._cases[key]
            self._due.pop(case, None)
            self._unwatch(case.rules.manager)

    def _watch(self, manager: CertManager) -> None:
        """Count the cases of a manager, and listen to it while it has any."""
        known = self._watched.get(manager, 0)
        self._watched[manager] = known + 1
        if not known:
            manager.watch_trust(self._on_trust)

    def _unwatch(self, manager: CertManager) -> None:
        self._watched[manager] -= 1
        if not self._watched[manager]:
            del self._watched[manager]
            manager.unwatch_trust(self._on_trust)

    # --- when ---------------------------------------------------------------------

    def _on_trust(self, manager: CertManager) -> None:
        """Trust has changed. Called in any thread."""
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._trust_changed, manager)

    def _trust_changed(self, manager: CertManager) -> None:
        self._judge_soon(
            [case for case in self._cases.values() if case.rules.manager is manager]
        )

    def _look(self) -> None:
        """Find the cases with a certificate that has just expired."""
        now = time.time() - LATE_SECONDS
        expired = []
        self._wake_at = math.inf
        for case in self._cases.values():
            if case.due_at <= now:
                expired.append(case)
                case.due_at = case.next_end(now)
            self._wake_at = min(self._wake_at, case.due_at)
        self._judge_soon(expired)
        self._set_timer()

    def _set_timer(self) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._cases:
            delay = self._wake_at + LATE_SECONDS - time.time()
            self._timer = self._loop.call_later(
                min(max(delay, 0.0), LOOK_SECONDS), self._look
            )

    # --- judging ------------------------------------------------------------------

    def _judge_soon(self, cases: list[Case]) -> None:
        if self._stopped or not cases:
            return
        assert self._loop is not None
        self._due.update(dict.fromkeys(cases))
        if self._task is None:
            self._task = self._loop.create_task(self._work())

    async def _work(self) -> None:
        """Judge what is due: verify in a thread, and close links in slices."""
        report = Report()
        assert self._loop is not None
        executor = ThreadPoolExecutor(1, "fastnode-recheck")
        try:
            verified: Batch | None = None
            while self._due or verified is not None:
                batch = self._next()
                # The thread works while the loop concludes and rests.
                verdicts = self._loop.run_in_executor(
                    executor, self._verify, batch.pairs
                )
                if verified is not None:
                    await self._conclude(verified, report)
                batch.verdicts = await verdicts
                verified = batch if batch.cases else None
        finally:
            self._task = None
            # If this task was cancelled, the thread is done in a moment.
            executor.shutdown(wait=False)
        log.log(
            logging.WARNING if report.closed else logging.INFO,
            "%s: trust or the time has changed: %s",
            self._node,
            report,
            extra=fields(
                "peers_rechecked",
                node=self._node,
                judged=report.judged,
                closed=len(report.closed),
            ),
        )

    def _next(self) -> Batch:
        """Return the next few due cases, with the current rules."""
        began = time.perf_counter()
        batch = Batch(list(islice(self._due, BATCH)))
        handles: dict[tuple[ssl.SSLContext, str | None], Handle] = {}
        for case in batch.cases:
            del self._due[case]
            handle = self._handle(case.rules, handles)
            if handle is not None:
                batch.pairs.append((handle, case.chain))
        batch.spent = time.perf_counter() - began
        return batch

    def _handle(
        self,
        rules: Rules,
        handles: dict[tuple[ssl.SSLContext, str | None], Handle],
    ) -> Handle | None:
        """Return a connection that has the rules of the next handshake."""
        manager, dialer, name = rules
        try:
            make = manager.client_context if dialer else manager.server_context
            wanted: dict[str, Any] = dict(self._wanted)
            if dialer and name is None:
                # The dial compared the certificate with a service, not with a host.
                wanted["verify_server_name"] = False
            context = make(insecure_skip_verify=False, **wanted)
            found = handles.get((context, name))
            if found is None:
                found = wrap(context, server_side=not dialer, server_name=name)
        except Exception as error:
            log.exception(
                "%s: peers cannot be judged again",
                self._node,
                extra=fields("recheck_failed", node=self._node, error=error),
            )
            return None
        if found is not None:
            handles[context, name] = found
        return found

    def _verify(self, pairs: list[Pair]) -> list[Verdict]:
        """Verify chains; runs in the thread."""
        try:
            return judge_again(pairs)
        except Exception as error:
            log.exception(
                "%s: peers cannot be judged again",
                self._node,
                extra=fields("recheck_failed", node=self._node, error=error),
            )
            return []

    async def _conclude(self, batch: Batch, report: Report) -> None:
        """Close the links that the verdicts refuse."""
        steps = self._steps(batch, report)
        spent, done = batch.spent, False
        while not done:
            began = time.perf_counter()
            done = True
            for _step in steps:
                if time.perf_counter() - began >= SLICE_SECONDS:
                    done = False
                    break
            spent += time.perf_counter() - began
            await asyncio.sleep(REST * spent)
            spent = 0.0

    def _steps(self, batch: Batch, report: Report) -> Iterator[None]:
        """Draw the conclusions, with a step for each case and each closed link."""
        complete = len(batch.verdicts) == len(batch.cases)
        for at, case in enumerate(batch.cases):
            # A peer that cannot be verified is not trusted.
            verdict = batch.verdicts[at] if complete else None
            refusal = self._refusal(case, verdict)
            report.judged += 1
            yield
            for protocol, name in tuple(case.links.items()):
                error = refusal or self._refusal_of_name(case, name, verdict)
                if error is not None:
                    close(protocol, error)
                    report.closed.append(str(name))
                    yield

    def _refusal(self, case: Case, verdict: Verdict | None) -> FastnodeError | None:
        """Return the error if a chain is refused."""
        if verdict is None:
            return cannot_judge("see the log")
        if not verdict.code:
            return None
        manager, dialer, server_name = case.rules
        evidence = Evidence(
            dialer=dialer,
            server_name=server_name,
            pool=manager.root_cas if dialer else manager.client_cas,
            verdict=verdict,
        )
        return explain(evidence, verdict)

    def _refusal_of_name(
        self, case: Case, name: NodeName, verdict: Verdict | None
    ) -> FastnodeError | None:
        """Return the error if a certificate does not cover a node name any more."""
        der = case.chain[0]
        certificate = read_again(der)
        if verdict is None or certificate is None:
            return cannot_judge("its certificate cannot be read")
        rules = case.rules
        verified = rules.manager.verifies_server_name and rules.dialer
        try:
            self._admission.compare_names(
                name,
                certificate,
                der,
                verdict.constrained_by,
                rules.server_name if verified else None,
            )
        except HandshakeError as error:
            return error
        return None

    def stop(self) -> None:
        """Stop all checks."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        for manager in self._watched:
            manager.unwatch_trust(self._on_trust)
        self._watched.clear()
        self._cases.clear()
        self._due.clear()


@dataclass(slots=True)
class Batch:
    """Cases that are verified in one go.

    Attributes:
        cases: the cases.
        pairs: what `judge_again` takes for them; fewer if there are no rules for one.
        verdicts: what it returns; none if something went wrong.
        spent: seconds of the loop that were spent on them already.
    """

    cases: list[Case]
    pairs: list[Pair] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    spent: float = 0.0


@dataclass(slots=True)
class Report:
    """What came of judging.

    Attributes:
        judged: how many cases were judged.
        closed: the node names of the peers whose links were closed.
    """

    judged: int = 0
    closed: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.judged} peer certificates verified again"
        if not self.closed:
            return f"{text}, no link closed"
        names = ", ".join(self.closed[:NAMED])
        more = len(self.closed) - NAMED
        return (
            f"{text}, {len(self.closed)} links closed: {names}"
            f"{f' and {more} more' if more > 0 else ''}"
        )


def ends_of(chain: tuple[bytes, ...]) -> tuple[float, ...]:
    """When the certificates of a chain expire, in seconds of `time.time`."""
    found = []
    for der in chain:
        certificate = readable(der)
        if certificate is not None:
            with suppress(ValueError, OverflowError):  # strangers write any date
                found.append(certificate.not_valid_after_utc.timestamp())
    return tuple(found)


def close(protocol: LinkProtocol, refusal: FastnodeError) -> None:
    """End a link, or a connection that is about to become one, for a refusal."""
    if protocol.state is State.CLOSED:
        return
    error = renewed(refusal)
    if protocol.state < State.UP:
        protocol.refuse(error)
        return
    assert protocol.peer is not None
    lost = endings.lost(
        f"the peer would be refused today: {error.message}",
        protocol.peer,
        side=Side.LOCAL,
        hint=error.hint,
    )
    lost.__cause__ = error
    reason = getattr(error, "close_reason", CloseReason.REFUSED)
    protocol.terminate(lost, reason, error.message, error.hint)


def cannot_judge(why: str) -> HandshakeError:
    """The error for a peer whose certificate cannot be verified again."""
    return HandshakeError(
        f"the peer's certificate cannot be verified again: {why}",
        side=Side.LOCAL,
        hint="the log of the refusing node says more; connect again",
    )
