"""asyncio streams over asyncio's own TLS, as its documentation shows them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import trust as certificates
from contenders.contender import HEADER, HOST, Contender
from contents import Counter


class Streams(Contender):
    server: asyncio.Server | None = None

    @staticmethod
    def new_loop() -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()

    async def serve(self, counter: Counter) -> int:

        async def session(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            try:
                while True:
                    header = await reader.readexactly(HEADER.size)
                    size, number = HEADER.unpack(header)
                    payload = await reader.readexactly(size)
                    if number:
                        writer.write(header + payload)
                        await writer.drain()
                    else:
                        counter.handle(payload)
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        context = certificates.context(self.trust, server=True)
        self.server = await asyncio.start_server(
            session, HOST, 0, ssl=context, backlog=1024
        )
        port: int = self.server.sockets[0].getsockname()[1]
        return port

    async def connect(self, port: int, number: int = 0) -> None:
        self.reader, self.writer = await asyncio.open_connection(
            HOST,
            port,
            ssl=certificates.context(self.trust, server=False),
            server_hostname=HOST,
        )
        self.numbers = itertools.count(1)
        self.waiting: dict[int, asyncio.Future[bytes]] = {}
        self.replies = asyncio.create_task(self._read_replies())

    async def send_many(self, payload: bytes, count: int) -> None:
        frame = HEADER.pack(len(payload), 0) + payload
        for _ in range(count):
            self.writer.write(frame)
            await self.writer.drain()

    async def call(self, payload: bytes) -> bytes:
        number = next(self.numbers)
        waiter: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.waiting[number] = waiter
        self.writer.write(HEADER.pack(len(payload), number) + payload)
        await self.writer.drain()
        return await waiter

    async def _read_replies(self) -> None:
        while True:
            try:
                header = await self.reader.readexactly(HEADER.size)
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            size, number = HEADER.unpack(header)
            payload = await self.reader.readexactly(size)
            self.waiting.pop(number).set_result(payload)

    async def disconnect(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()
        await self.replies

    async def close(self) -> None:
        if self.server is not None:
            self.server.close()
        elif not self.replies.done():
            await self.disconnect()
