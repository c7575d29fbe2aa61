"""fastnode, through its public API."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, ClassVar

import uvloop

import trust as certificates
from contenders.contender import HOST, Contender
from contents import METADATA, Counter, has_metadata
from fastnode import (
    AcceptorOptions,
    Link,
    Message,
    NetworkOptions,
    Node,
    NodeOptions,
    Route,
    start_node,
)

#: Messages between two looks at the queue; `drain` waits only above the high mark.
BATCH = 64


class FastnodeLink(Contender):
    node: Node
    link: Link
    #: Of `NetworkOptions`, beyond the defaults.
    network: ClassVar[dict[str, Any]] = {}
    #: What "make" replies.
    made = b""

    @staticmethod
    def new_loop() -> asyncio.AbstractEventLoop:
        return uvloop.new_event_loop()

    async def serve(self, counter: Counter) -> int:
        self.node = await self._start(certificates.SERVER, listens=True)
        self.add_sink(counter)

        @self.node.handler("echo")
        def echo(message: Message) -> bytes:
            return message.payload

        @self.node.handler("described")
        def described(message: Message) -> bytes:
            return message.payload if has_metadata(message.metadata) else b"wrong"

        @self.node.handler("make")
        def make(message: Message) -> bytes:
            size = int(message.payload)
            if len(self.made) != size:
                self.made = bytes(size)
            return self.made

        return self.node.acceptors[0].address[1]

    def add_sink(self, counter: Counter) -> None:
        """Make the endpoint for one-way messages."""

        def sink(message: Message) -> None:
            # `counter.handle`, in one Python call as with the other contenders.
            payload = message.payload
            counter.messages += 1
            if payload != counter.expected:
                counter.look_at(payload)

        self.node.handler("sink")(sink)

    async def connect(self, port: int, number: int = 0) -> None:
        if not hasattr(self, "node"):
            self.node = await self._start(
                certificates.client_name(number), listens=False
            )
            self.node.add_route(Route("^server@", HOST, port))
        self.link = await self.node.connect(certificates.SERVER)

    async def _start(self, name: str, *, listens: bool) -> Node:
        acceptors = [AcceptorOptions(host=HOST, port=0)] if listens else []
        return await start_node(
            name,
            NodeOptions(
                cert_manager=certificates.manager(self.trust, name),
                network=NetworkOptions(acceptors=acceptors, **self.network),
            ),
        )

    async def send_many(self, payload: bytes, count: int) -> None:
        send, drain = self.link.send, self.link.drain
        step = max(1, min(BATCH, (256 << 10) // len(payload)))
        for start in range(0, count, step):
            for _ in range(min(step, count - start)):
                send("sink", payload)
            await drain()

    async def one_way(self, payload: bytes, count: int) -> None:
        await self.send_many(payload, count - 1)
        # The last one is handled after all others; a small call would pass large ones,
        # though not in the versions, measured too, that know no confirmation.
        last: Any = getattr(self.link, "send_confirmed", self.link.call)
        await last("sink", payload)

    async def call(self, payload: bytes) -> bytes:
        return await self.link.call("echo", payload)

    async def call_with_metadata(self, payload: bytes) -> bytes:
        return await self.link.call("described", payload, metadata=METADATA)

    async def disconnect(self) -> None:
        # The node stays, as it does in a service.
        await self.link.close()

    async def close(self) -> None:
        await self.node.stop()


class SleepingLink(FastnodeLink):
    """A client that sleeps while it waits for a reply, as others do."""

    network: ClassVar[dict[str, Any]] = {"busy_poll": 0}


class FastnodeBatch(FastnodeLink):
    @classmethod
    def missing(cls) -> str | None:
        if "batch" in inspect.signature(Node.handler).parameters:
            return None
        return "this fastnode has no batch handlers"

    def add_sink(self, counter: Counter) -> None:
        def sink(messages: list[Message]) -> None:
            counter.messages += len(messages)
            for message in messages:
                payload = message.payload
                if payload != counter.expected:
                    counter.look_at(payload)

        # By name: older versions of fastnode, which are measured too, know no batches.
        handler: Any = self.node.handler
        handler("sink", batch=True)(sink)
