"""EtcdDiscovery: services whose instances are keys of etcd.

How it works. A node that is announced has a lease, and for each service a key under the
prefix: ``PREFIX/SERVICE/INSTANCE``. The lease is kept alive as long as the node is
announced. When its process is gone, the lease ends, and etcd removes the keys.

A watch reads all keys of a service, and then follows the changes from the revision that
it has read. Whenever the stream of changes ends, for whatever reason (the endpoint or
its leader is gone, revisions were compacted), it begins again by reading all keys. So a
watch never depends on old revisions. While the stream is silent, it asks the endpoint
from time to time how many keys there are. That finds endpoints that are cut off, which
a stream does not tell.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from fastnode.discovery.entry import Entry, decode_entry, entry_of
from fastnode.discovery.etcd_gateway import EtcdGateway, Stream, check_aiohttp
from fastnode.discovery.failure import DiscoveryError
from fastnode.discovery.protocol import AnnouncedNode
from fastnode.discovery.target import Target
from fastnode.discovery.watch import Publish, Watch
from fastnode.errors import ConfigError
from fastnode.limits import ETCD_TIMEOUT_SECONDS, ETCD_TTL_SECONDS, MAX_TARGETS
from fastnode.log_limit import LogLimit
from fastnode.names import check_service

if TYPE_CHECKING:
    import ssl

    from fastnode.certs.manager import CertManager

__all__ = ["EtcdDiscovery"]

log = logging.getLogger("fastnode.discovery")

#: A lease is kept alive so many times within its TTL: two of them may be lost.
KEEPALIVES: Final = 3
#: An announcement that failed is tried again after so many seconds, about.
RETRY_SECONDS: Final = 0.5
#: A node that stops waits for etcd so many seconds, and no longer.
LEAVE_SECONDS: Final = 2.0
#: Silence of a watch after which its endpoint is asked, seconds.
SILENCE_SECONDS: Final = 5.0
#: The longest pause of a watch after etcd failed, seconds.
MOST_PAUSE_SECONDS: Final = 5.0
MAX_PREFIX: Final = 512


class EtcdDiscovery:
    """Finds services in etcd 3.4 or newer, and announces nodes there.

    What a directory says is bounded and checked. It says where to dial, and never whom
    to trust. ::

        EtcdDiscovery(["https://etcd-0:2379", "https://etcd-1:2379"],
                      prefix="/prod", cert_manager=manager)

    Args:
        endpoints: base addresses of the members of a cluster. A call that one does not
            answer goes to the next one.
        prefix: what all keys begin with. Clusters with different prefixes do not see
            each other.
        cert_manager: certificate and trust for ``https``. Each new connection takes the
            current ones. None for ``http``, which protects nothing.
        username, password: for an etcd with authentication; both or none. They need
            ``https``. The gateway of such an etcd refuses client certificates with a
            Common Name: use a cert manager without a certificate, or a certificate
            without that name.
        ttl: seconds after which the keys of a process that was killed are gone; whole
            seconds, rounded up.
        timeout: seconds for a call to one endpoint.

    Raises:
        ConfigError: an argument cannot work, or aiohttp is not installed
            (``fastnode[etcd]``).
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        prefix: str = "/fastnode",
        cert_manager: CertManager | None = None,
        username: str | None = None,
        password: str | None = None,
        ttl: float = ETCD_TTL_SECONDS,
        timeout: float = ETCD_TIMEOUT_SECONDS,
    ) -> None:
        self._endpoints = _checked_endpoints(endpoints, secure=cert_manager is not None)
        self._prefix = _checked_prefix(prefix)
        self._context: Callable[[], ssl.SSLContext] | None = None
        if cert_manager is not None:
            # By a method, because the class is loaded with cryptography.
            if not hasattr(cert_manager, "https_context"):
                raise ConfigError(
                    f"EtcdDiscovery.cert_manager is a {type(cert_manager).__name__}",
                    hint="pass a CertManager or CertAuthManager",
                )
            self._context = cert_manager.https_context
        self._credentials = _checked_credentials(
            username, password, secure=cert_manager is not None
        )
        self._ttl = math.ceil(_seconds("ttl", ttl, 1))
        self._timeout = _seconds("timeout", timeout, 0.05)
        self._limit = LogLimit(log)
        check_aiohttp()

    def watch(self, service: str) -> Watch:
        """See `Discovery.watch`.

        Raises:
            ConfigError: `service` cannot be the name of a service.
        """
        first = f"{self._prefix}/{check_service(service)}/".encode()
        last = first[:-1] + b"0"  # the character after the slash

        async def follow(publish: Publish) -> None:
            async with self._gateway() as gateway:
                while True:
                    await self._follow(gateway, first, last, publish)

        where = f"in etcd under {self._prefix}"
        return Watch(service, follow, where=where, most=MOST_PAUSE_SECONDS)

    async def _follow(
        self, gateway: EtcdGateway, first: bytes, last: bytes, publish: Publish
    ) -> None:
        """Read all keys, and follow changes until it is better to read all again."""
        found = await gateway.read(first, last, limit=MAX_TARGETS)
        entries = {key: self._entry(key, data) for key, data in found.values.items()}
        publish(_targets_of(entries))
        revision = found.revision + 1
        async with gateway.watch(first, last, revision) as stream:
            while True:
                changes = await _next_changes(stream)
                if changes is None:
                    # Silent for long. The answer comes from a majority of the members.
                    found = await gateway.read(first, last, limit=1, count_only=True)
                    gone = gateway.endpoint != stream.endpoint
                    if gone or min(found.count, MAX_TARGETS) != len(entries):
                        return
                    continue
                for key, data in changes.items():
                    if data is None:
                        entries.pop(key, None)
                    elif key in entries or len(entries) < MAX_TARGETS:
                        entries[key] = self._entry(key, data)
                if changes:
                    publish(_targets_of(entries))

    def _entry(self, key: bytes, data: bytes) -> Entry | None:
        try:
            return decode_entry(data)
        except ValueError as error:
            text = "the key %r of etcd is ignored: %s"
            shown = key[:MAX_PREFIX].decode(errors="replace")
            self._limit.say(
                logging.WARNING, "entry", text, shown, error,
                event="entry_ignored", key=shown, error=error,
            )  # fmt: skip
            return None

    @asynccontextmanager
    async def announce(
        self, node: AnnouncedNode, services: Sequence[str]
    ) -> AsyncIterator[None]:
        """See `AnnouncingDiscovery.announce`.

        If the lease or a key is lost, the node is announced again, within a third of
        the TTL after etcd can be reached.

        Raises:
            ConfigError: the node cannot be announced.
            DiscoveryError: etcd did not answer, or refused.
        """
        entry = entry_of(node, services)
        keys = [f"{self._prefix}/{each}/{entry.instance}" for each in entry.services]
        async with self._gateway() as gateway:
            announcement = _Announcement(gateway, keys, entry, self._ttl)
            try:
                await announcement.write()
                keeping = asyncio.create_task(announcement.keep())
                try:
                    yield
                finally:
                    keeping.cancel()
                    await asyncio.wait([keeping])
            finally:
                await announcement.remove()

    def _gateway(self) -> EtcdGateway:
        return EtcdGateway(
            self._endpoints, self._context, self._timeout, self._credentials
        )

    def __repr__(self) -> str:
        return f"<EtcdDiscovery: {', '.join(self._endpoints)} under {self._prefix}>"


class _Announcement:
    """The lease and the keys of one node."""

    def __init__(
        self, gateway: EtcdGateway, keys: Sequence[str], entry: Entry, ttl: int
    ) -> None:
        self._gateway = gateway
        self._keys = [key.encode() for key in keys]
        self._node = entry.node
        self._value = entry.encode()
        self._ttl = ttl
        self._lease: str | None = None
        self._limit = LogLimit(log)

    async def write(self) -> None:
        """Write the keys under a new lease."""
        self._lease = await self._gateway.grant(self._ttl)
        for key in self._keys:
            await self._gateway.put(key, self._value, self._lease)

    async def keep(self) -> None:
        """Keep the lease alive, and write the keys again when they are lost."""
        pause = self._ttl / KEEPALIVES
        while True:
            await asyncio.sleep(pause)
            try:
                if not await self._is_alive():
                    text = "%s was lost from etcd, and is announced again"
                    self._limit.say(
                        logging.WARNING, "lost", text, self._node,
                        event="announcement_lost", node=self._node,
                    )  # fmt: skip
                    await self.write()
                pause = self._ttl / KEEPALIVES
            except DiscoveryError as error:
                # Many nodes lose the same etcd at the same time.
                pause = RETRY_SECONDS * random.uniform(0.5, 1.5)
                text = "the announcement of %s cannot be kept; trying again: %s"
                self._limit.say(
                    logging.WARNING, "keep", text, self._node, error,
                    event="announcement_failed", node=self._node, error=error,
                )  # fmt: skip

    async def _is_alive(self) -> bool:
        if self._lease is None or not await self._gateway.keep_alive(self._lease):
            return False
        for key in self._keys:
            found = await self._gateway.read(key, key + b"\0", limit=1, count_only=True)
            if not found.count:
                return False
        return True

    async def remove(self) -> None:
        """End the lease. If etcd does not answer, the lease ends after its TTL."""
        if self._lease is None:
            return
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._gateway.revoke(self._lease)
        except (DiscoveryError, TimeoutError) as error:
            text = "%s leaves, but stays in etcd for up to %d s: %r"
            self._limit.say(
                logging.WARNING, "remove", text, self._node, self._ttl, error,
                event="announcement_not_removed", node=self._node, error=error,
            )  # fmt: skip


async def _next_changes(stream: Stream) -> dict[bytes, bytes | None] | None:
    """Return changes, or None if the stream is silent for long."""
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            return await stream.changes()
    except TimeoutError:
        return None


def _targets_of(entries: dict[bytes, Entry | None]) -> Iterator[Target]:
    for entry in entries.values():
        if entry is not None:
            yield from entry.targets


# --- options ----------------------------------------------------------------------


def _checked_endpoints(given: object, *, secure: bool) -> tuple[str, ...]:
    hint = 'write EtcdDiscovery(["https://etcd-0:2379"], cert_manager=manager)'
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence) or not given:
        raise ConfigError(f"EtcdDiscovery.endpoints is {given!r}", hint=hint)
    found = []
    for each in given:
        try:
            parts = urlsplit(each)
            good = bool(parts.hostname) and parts.scheme in ("http", "https")
            good = good and parts.port != 0 and parts.path in ("", "/")
            good = good and not (parts.query or parts.fragment or parts.username)
        except (ValueError, TypeError, AttributeError):
            good = False
        if not good:
            raise ConfigError(f"{each!r} is no endpoint of etcd", hint=hint)
        if (parts.scheme == "https") is not secure:
            what = "cannot use the cert manager" if secure else "needs a cert manager"
            raise ConfigError(
                f"the endpoint {each} {what}",
                hint="use https with cert_manager=..., or http without, which protects "
                "nothing",
            )
        found.append(f"{parts.scheme}://{parts.netloc}")
    return tuple(found)


def _checked_prefix(prefix: object) -> str:
    if (
        not isinstance(prefix, str)
        or not prefix.isascii()
        or not prefix.isprintable()
        or not prefix.strip("/")
        or len(prefix) > MAX_PREFIX
    ):
        raise ConfigError(
            f"EtcdDiscovery.prefix is {prefix!r:.200}",
            hint=f'write a path such as "/prod", at most {MAX_PREFIX} characters',
        )
    return prefix.rstrip("/")


def _checked_credentials(
    username: object, password: object, *, secure: bool
) -> tuple[str, str] | None:
    if username is None and password is None:
        return None
    if not isinstance(username, str) or not isinstance(password, str):
        raise ConfigError(
            "EtcdDiscovery has a username or a password, but not both as text",
            hint="pass both, or none",
        )
    if not secure:
        raise ConfigError(
            "EtcdDiscovery would send a password without TLS",
            hint="use https endpoints and cert_manager=...",
        )
    return username, password


def _seconds(name: str, value: object, least: float) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or not least <= value <= 86400
    ):
        raise ConfigError(
            f"EtcdDiscovery.{name} is {value!r}", hint=f"seconds, {least:g} to 86400"
        )
    return float(value)
