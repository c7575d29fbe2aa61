"""picows: WebSocket frames, on aiofastnet's transport, as it is by default.

One-way messages are binary frames, calls are text frames, whose contents picows does
not look at; answers come in the order of the calls.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import uvloop
from picows import WSListener, WSMsgType, ws_connect, ws_create_server

import trust as certificates
from contenders.contender import HOST, Contender
from contents import Counter

ONE_WAY, CALL = WSMsgType.BINARY, WSMsgType.TEXT


class ServerListener(WSListener):  # type: ignore[misc]  # its types are not looked at
    def __init__(self, counter: Counter) -> None:
        self.counter = counter

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        payload = frame.get_payload_as_bytes()
        if frame.msg_type == ONE_WAY:
            self.counter.handle(payload)
        else:
            transport.send(CALL, payload)


class ClientListener(WSListener):  # type: ignore[misc]  # its types are not looked at
    def __init__(self) -> None:
        self.waiting: deque[asyncio.Future[bytes]] = deque()
        self.writable = asyncio.Event()
        self.writable.set()

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        self.waiting.popleft().set_result(frame.get_payload_as_bytes())

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()


class PicowsFrames(Contender):
    server: Any = None
    transport: Any = None

    @staticmethod
    def new_loop() -> asyncio.AbstractEventLoop:
        return uvloop.new_event_loop()

    async def serve(self, counter: Counter) -> int:
        self.server = await ws_create_server(
            lambda _: ServerListener(counter),
            HOST,
            0,
            ssl=certificates.context(self.trust, server=True),
            backlog=1024,
        )
        port: int = self.server.sockets[0].getsockname()[1]
        return port

    async def connect(self, port: int, number: int = 0) -> None:
        self.transport, self.listener = await ws_connect(
            ClientListener,
            f"wss://{HOST}:{port}/",
            ssl_context=certificates.context(self.trust, server=False),
            server_hostname=HOST,
        )

    async def send_many(self, payload: bytes, count: int) -> None:
        send, writable = self.transport.send, self.listener.writable
        for _ in range(count):
            send(ONE_WAY, payload)
            if not writable.is_set():
                await writable.wait()

    async def call(self, payload: bytes) -> bytes:
        waiter: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.listener.waiting.append(waiter)
        self.transport.send(CALL, payload)
        return await waiter

    async def disconnect(self) -> None:
        self.transport.disconnect()
        await self.transport.wait_disconnected()
        self.transport = None

    async def close(self) -> None:
        if self.server is not None:
            self.server.close()
        elif self.transport is not None:
            await self.disconnect()
