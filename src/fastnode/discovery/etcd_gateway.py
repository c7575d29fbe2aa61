"""EtcdGateway: etcd's HTTP/JSON gateway. The only user of aiohttp.

The gateway was chosen over a gRPC library. It takes an `ssl.SSLContext`, so that
certificates and trust come from a cert manager, and each new connection has the current
ones. It needs no generated code. aiohttp was chosen because it is well kept, works on
every event loop, and takes a context for each request.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Self, TypeVar

from fastnode.discovery.failure import DiscoveryError
from fastnode.errors import ConfigError, FastnodeError

if TYPE_CHECKING:
    import ssl

    import aiohttp

__all__ = ["EtcdGateway", "EtcdRefused", "Range", "Stream", "check_aiohttp"]

Given = ParamSpec("Given")
Parsed = TypeVar("Parsed")

#: One answer. 4096 keys with entries of usual length take 2 MiB.
MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
#: Part of an error of etcd that is told.
MAX_REASON: Final = 300

# Codes of gRPC, which etcd's errors carry.
INVALID_ARGUMENT: Final = 3
NOT_FOUND: Final = 5
PERMISSION_DENIED: Final = 7
UNAUTHENTICATED: Final = 16
#: Another endpoint would say the same.
FINAL: Final = frozenset({INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED})


class EtcdRefused(DiscoveryError):
    """etcd answered with an error.

    Attributes:
        status: the code of gRPC, or 0 where etcd did not say it.
    """

    usual_hint = "see the log of etcd, and the permissions of the user or certificate"
    status: int = 0


def check_aiohttp() -> None:
    """Raise `ConfigError` if aiohttp is not installed."""
    try:
        import aiohttp  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            f"EtcdDiscovery needs aiohttp: {error}",
            hint="pip install 'fastnode[etcd]'",
        ) from error


class Range:
    """Keys and values of a range.

    Attributes:
        values: values by their keys.
        revision: the revision of the cluster that was read.
        count: how many keys the range has.
    """

    def __init__(self, answer: Mapping[str, Any]) -> None:
        header = _mapping(answer.get("header"))
        self.revision = _number(header.get("revision"))
        self.count = _number(answer.get("count", 0))
        self.values = {
            _decode(each.get("key")): _decode(each.get("value", ""))
            for each in map(_mapping, _list(answer.get("kvs", [])))
        }


class EtcdGateway:
    """Asks one of several endpoints; use it as an asynchronous context manager.

    A call that an endpoint does not answer goes to the next one. The endpoint that
    answered last is asked first.

    Args:
        endpoints: base addresses, such as ``https://etcd-0:2379``.
        context: returns the context for connections that are made now; None: plaintext.
        timeout: seconds for a call to one endpoint.
        credentials: user name and password; None: etcd needs none.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        context: Callable[[], ssl.SSLContext] | None,
        timeout: float,
        credentials: tuple[str, str] | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._context = context
        self._timeout = timeout
        self._credentials = credentials
        self._token: str | None = None
        self._current = 0
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        import aiohttp  # noqa: PLC0415

        self._session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def endpoint(self) -> str:
        """The endpoint that is asked first."""
        return self._endpoints[self._current]

    def turn_away(self) -> None:
        """Ask the next endpoint first from now on."""
        self._current = (self._current + 1) % len(self._endpoints)

    # --- what etcd can do ---------------------------------------------------------

    async def read(
        self, first: bytes, last: bytes, *, limit: int, count_only: bool = False
    ) -> Range:
        """Read the keys from `first` up to and without `last`.

        Raises:
            DiscoveryError: every endpoint failed, or sent an answer that is not valid.
        """
        body = {
            "key": _encode(first),
            "range_end": _encode(last),
            "limit": limit,
            "count_only": count_only,
        }
        return _parsed(Range, await self.call("kv/range", body))

    async def put(self, key: bytes, value: bytes, lease: str) -> None:
        """Write a key that ends with a lease."""
        body = {"key": _encode(key), "value": _encode(value), "lease": lease}
        await self.call("kv/put", body)

    async def grant(self, ttl: int) -> str:
        """Return a new lease that lives for `ttl` seconds."""
        answer = await self.call("lease/grant", {"TTL": ttl})
        return str(_parsed(_number, answer.get("ID")))

    async def keep_alive(self, lease: str) -> bool:
        """Let a lease live for its time again; return whether it still exists."""
        answer = await self.call("lease/keepalive", {"ID": lease})
        result = _parsed(_mapping, answer.get("result"))
        return _parsed(_number, result.get("TTL", 0)) > 0

    async def revoke(self, lease: str) -> None:
        """End a lease, and with it its keys."""
        try:
            await self.call("lease/revoke", {"ID": lease})
        except EtcdRefused as refused:
            if refused.status != NOT_FOUND:
                raise

    @asynccontextmanager
    async def watch(
        self, first: bytes, last: bytes, revision: int
    ) -> AsyncIterator[Stream]:
        """Follow the changes of a range at the current endpoint.

        Args:
            first, last: as for `read`.
            revision: the first revision of the changes.

        Raises:
            DiscoveryError: the endpoint did not answer.
        """
        body = {
            "create_request": {
                "key": _encode(first),
                "range_end": _encode(last),
                "start_revision": revision,
            }
        }
        endpoint = self.endpoint
        with _translated(endpoint):
            async with asyncio.timeout(self._timeout):
                response = await self._post(endpoint, "watch", body)
        try:
            if response.status != 200:
                # The body of a stream may have no end.
                raise _refusal(endpoint, response.status, b"")
            yield Stream(endpoint, response)
        finally:
            response.close()

    # --- requests -----------------------------------------------------------------

    async def call(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the endpoints one after the other until one answers.

        Raises:
            EtcdRefused: etcd answered with an error that other endpoints would repeat.
            DiscoveryError: no endpoint answered.
        """
        failures: list[str] = []
        for _ in self._endpoints:
            try:
                return await self._call(path, body)
            except DiscoveryError as error:
                if isinstance(error, EtcdRefused) and error.status in FINAL:
                    raise
                failures.append(error.message)
                self.turn_away()
        raise DiscoveryError(f"no endpoint of etcd answers: {'; '.join(failures)}")

    async def _call(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the current endpoint, as a user that has logged in."""
        if self._credentials is None:
            return await self._ask(path, body)
        new = self._token is None
        if new:
            await self._log_in(self._credentials)
        try:
            return await self._ask(path, body)
        except EtcdRefused as refused:
            if new or refused.status != UNAUTHENTICATED:
                raise
        # The token has expired.
        await self._log_in(self._credentials)
        return await self._ask(path, body)

    async def _log_in(self, credentials: tuple[str, str]) -> None:
        self._token = None
        name, password = credentials
        login = {"name": name, "password": password}
        answer = await self._ask("auth/authenticate", login)
        self._token = _parsed(_text, answer.get("token"))

    async def _ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        endpoint = self.endpoint
        with _translated(endpoint):
            async with asyncio.timeout(self._timeout):
                response = await self._post(endpoint, path, body)
                async with response:
                    data = await _read(response)
        if response.status != 200:
            raise _refusal(endpoint, response.status, data)
        return _parsed(_json, data)

    async def _post(
        self, endpoint: str, path: str, body: Mapping[str, Any]
    ) -> aiohttp.ClientResponse:
        import aiohttp  # noqa: PLC0415

        if self._session is None:
            raise DiscoveryError("the connections to etcd are closed")
        # Without a leader an endpoint ends a watch, which would be silent otherwise.
        headers = {"Grpc-Metadata-hasleader": "true"}
        if self._token is not None:
            headers["Authorization"] = self._token
        return await self._session.post(
            f"{endpoint}/v3/{path}",
            json=body,
            headers=headers,
            ssl=True if self._context is None else self._context(),
            allow_redirects=False,
            # The callers bound the time: a stream has no end.
            timeout=aiohttp.ClientTimeout(total=None),
        )


class Stream:
    """The changes of a range, as one endpoint reports them.

    Attributes:
        endpoint: the endpoint that reports.
    """

    def __init__(self, endpoint: str, response: aiohttp.ClientResponse) -> None:
        self.endpoint = endpoint
        self._response = response
        self._buffer = bytearray()

    async def changes(self) -> dict[bytes, bytes | None]:
        """Wait for changes, and return the new values by their keys; None: removed.

        It may be cancelled, and be called again.

        Raises:
            DiscoveryError: the stream has ended. etcd ends it when its revisions were
                compacted, and when it has no leader.
        """
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if len(self._buffer) > MAX_ANSWER_BYTES:
                raise DiscoveryError(f"{self.endpoint} reports too much at once")
            with _translated(self.endpoint):
                data = await self._response.content.readany()
            if not data:
                raise DiscoveryError(f"{self.endpoint} has ended the watch")
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return _parsed(_changes, line, self.endpoint)


def _changes(line: bytes, endpoint: str) -> dict[bytes, bytes | None]:
    message = _json(line)
    if "error" in message:
        raise DiscoveryError(f"{endpoint} has ended the watch: {_short(message)}")
    result = _mapping(message.get("result"))
    if result.get("canceled"):
        raise DiscoveryError(f"{endpoint} has cancelled the watch: {_short(result)}")
    found: dict[bytes, bytes | None] = {}
    for event in map(_mapping, _list(result.get("events", []))):
        pair = _mapping(event.get("kv"))
        removed = event.get("type") == "DELETE"
        key = _decode(pair.get("key"))
        found[key] = None if removed else _decode(pair.get("value", ""))
    return found


# --- answers ----------------------------------------------------------------------


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return the body of an answer, which has a bound."""
    data = bytearray()
    async for part in response.content.iter_any():
        data += part
        if len(data) > MAX_ANSWER_BYTES:
            raise DiscoveryError(f"{response.url} answers with too much")
    return bytes(data)


def _refusal(endpoint: str, http: int, data: bytes) -> EtcdRefused:
    reason, status = data.decode(errors="replace").strip(), 0
    with suppress(ValueError):
        answer = _json(data)
        error = answer.get("error")
        if isinstance(error, dict):  # as the first message of a stream has it
            answer = error
        reason = str(answer.get("message") or answer.get("error") or "")
        status = _number(answer.get("code", answer.get("grpc_code", 0)))
    shown = reason[:MAX_REASON] or f"status {http}"
    refused = EtcdRefused(f"{endpoint} refused: {shown}")
    refused.status = status
    return refused


@contextmanager
def _translated(endpoint: str) -> Iterator[None]:
    """Raise `DiscoveryError` instead of what aiohttp raises."""
    import aiohttp  # noqa: PLC0415

    try:
        yield
    except FastnodeError:
        raise
    except TimeoutError as error:
        raise DiscoveryError(f"{endpoint} does not answer in time") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        text = f"{type(error).__name__}: {str(error)[:MAX_REASON]}"
        raise DiscoveryError(f"{endpoint} cannot be asked: {text}") from error


def _parsed(
    parse: Callable[Concatenate[Any, Given], Parsed],
    value: object,
    *args: Given.args,
    **kwargs: Given.kwargs,
) -> Parsed:
    """Return what a function makes of an answer, or say that etcd talks nonsense."""
    try:
        return parse(value, *args, **kwargs)
    except (ValueError, RecursionError) as error:
        raise DiscoveryError(
            f"etcd answers with something that it should not: {error}",
            hint="see that the endpoints are those of etcd 3.4 or newer",
        ) from error


def _json(data: bytes) -> dict[str, Any]:
    # `etcd` ends the only message of a stream with a line feed.
    return _mapping(json.loads(data))


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"no object: {_short(value)}")
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"no list: {_short(value)}")
    return value


def _number(value: object) -> int:
    # The gateway writes 64-bit numbers as text.
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        return int(value)
    raise ValueError(f"no number: {_short(value)}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"no text: {_short(value)}")
    return value


def _decode(value: object) -> bytes:
    return b64decode(_text(value), validate=True)


def _encode(value: bytes) -> str:
    return b64encode(value).decode()


def _short(value: object) -> str:
    return str(value)[:MAX_REASON]
