"""An asyncio.Protocol on uvloop: over uvloop's own TLS, and over aiofastnet's."""

from __future__ import annotations

import asyncio
import ssl
from functools import partial

import uvloop

import trust as certificates
from contenders.connection import Connection
from contenders.contender import HOST, Contender
from contents import Counter


class UvloopProtocol(Contender):
    coalesce = False
    server: asyncio.AbstractServer | None = None

    @staticmethod
    def new_loop() -> asyncio.AbstractEventLoop:
        return uvloop.new_event_loop()

    async def serve(self, counter: Counter) -> int:
        server = await self.listen(
            partial(Connection, counter.handle, self.coalesce),
            certificates.context(self.trust, server=True),
        )
        self.server = server
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def connect(self, port: int, number: int = 0) -> None:
        self.connection = await self.dial(
            partial(Connection, None, self.coalesce),
            port,
            certificates.context(self.trust, server=False),
        )

    async def listen(
        self, factory: partial[Connection], context: ssl.SSLContext
    ) -> asyncio.Server:
        """Start a server."""
        loop = asyncio.get_running_loop()
        return await loop.create_server(factory, HOST, 0, ssl=context, backlog=1024)

    async def dial(
        self, factory: partial[Connection], port: int, context: ssl.SSLContext
    ) -> Connection:
        """Connect to it."""
        _, connection = await asyncio.get_running_loop().create_connection(
            factory, HOST, port, ssl=context, server_hostname=HOST
        )
        return connection

    async def send_many(self, payload: bytes, count: int) -> None:
        await self.connection.send_many(payload, count)

    async def call(self, payload: bytes) -> bytes:
        return await self.connection.call(payload)

    async def disconnect(self) -> None:
        self.connection.transport.close()
        await self.connection.lost.wait()

    async def close(self) -> None:
        if self.server is not None:
            self.server.close()
        elif not self.connection.lost.is_set():
            await self.disconnect()


class UvloopCoalesced(UvloopProtocol):
    coalesce = True


class AiofastnetProtocol(UvloopProtocol):
    async def listen(
        self, factory: partial[Connection], context: ssl.SSLContext
    ) -> asyncio.Server:
        import aiofastnet

        loop = asyncio.get_running_loop()
        server: asyncio.Server = await aiofastnet.create_server(
            loop, factory, HOST, 0, ssl=context, backlog=1024
        )
        return server

    async def dial(
        self, factory: partial[Connection], port: int, context: ssl.SSLContext
    ) -> Connection:
        import aiofastnet

        connection: Connection
        _, connection = await aiofastnet.create_connection(
            asyncio.get_running_loop(),
            factory,
            HOST,
            port,
            ssl=context,
            server_hostname=HOST,
        )
        return connection


class AiofastnetCoalesced(AiofastnetProtocol):
    coalesce = True
