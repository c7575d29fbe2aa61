"""grpcio's asyncio API: one stream for one-way messages, a unary call for each call.

Payloads pass as they are: no protocol buffers. Its TLS is its own BoringSSL.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop

import trust as certificates
from contenders.contender import HOST, Contender
from contents import METADATA, Counter, has_metadata

#: grpcio takes metadata as pairs.
ENTRIES = tuple(METADATA.items())
UNLIMITED = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A connection for each channel, though they lead to one server.
    ("grpc.use_local_subchannel_pool", 1),
    # Servers refuse some of what is above a thousand calls that wait.
    ("grpc.server.max_pending_requests", 1 << 16),
    ("grpc.server.max_pending_requests_hard_limit", 1 << 16),
]


class GrpcStream(Contender):
    server: Any = None
    channel: Any = None

    @staticmethod
    def new_loop() -> asyncio.AbstractEventLoop:
        return uvloop.new_event_loop()

    def _files(self, name: str) -> tuple[bytes, bytes, bytes]:
        return (
            (self.trust / "ca.pem").read_bytes(),
            (self.trust / f"{name}-key.pem").read_bytes(),
            (self.trust / f"{name}.pem").read_bytes(),
        )

    async def serve(self, counter: Counter) -> int:
        async def sink(messages: AsyncIterator[bytes], _: Any) -> bytes:
            async for payload in messages:
                counter.handle(payload)
            return b"done"

        async def echo(payload: bytes, _: Any) -> bytes:
            return payload

        async def described(payload: bytes, context: Any) -> bytes:
            found = dict(context.invocation_metadata())
            return payload if has_metadata(found) else b"wrong"

        self.server = grpc.aio.server(options=UNLIMITED)
        self.server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    "bench",
                    {
                        "sink": grpc.stream_unary_rpc_method_handler(sink),
                        "echo": grpc.unary_unary_rpc_method_handler(echo),
                        "described": grpc.unary_unary_rpc_method_handler(described),
                    },
                )
            ]
        )
        ca, key, chain = self._files(certificates.SERVER)
        credentials = grpc.ssl_server_credentials(
            [(key, chain)], ca, require_client_auth=True
        )
        port: int = self.server.add_secure_port(f"{HOST}:0", credentials)
        await self.server.start()
        return port

    async def connect(self, port: int, number: int = 0) -> None:
        credentials = grpc.ssl_channel_credentials(*self._files(certificates.CLIENT))
        self.channel = grpc.aio.secure_channel(
            f"{HOST}:{port}", credentials, options=UNLIMITED
        )
        self.sink = self.channel.stream_unary("/bench/sink")
        self.echo = self.channel.unary_unary("/bench/echo")
        self.described = self.channel.unary_unary("/bench/described")

    async def send_many(self, payload: bytes, count: int) -> None:
        stream = self.sink()
        for _ in range(count):
            await stream.write(payload)
        await stream.done_writing()
        # The answer to the stream: all of it was handled.
        await stream

    async def one_way(self, payload: bytes, count: int) -> None:
        await self.send_many(payload, count)

    async def call(self, payload: bytes) -> bytes:
        reply: bytes = await self.echo(payload)
        return reply

    async def call_with_metadata(self, payload: bytes) -> bytes:
        reply: bytes = await self.described(payload, metadata=ENTRIES)
        return reply

    async def disconnect(self) -> None:
        await self.channel.close()
        self.channel = None

    async def close(self) -> None:
        if self.server is not None:
            await self.server.stop(None)
        elif self.channel is not None:
            await self.disconnect()
