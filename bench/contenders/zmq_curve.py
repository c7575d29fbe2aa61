"""pyzmq with CURVE, which is not TLS: Curve25519, XSalsa20 and Poly1305.

Both sides have keys, and the server asks for the client's. PUSH and PULL carry one-way
messages, DEALER and ROUTER calls. zmq coalesces in threads of its own, so that its
sockets know no order among each other: the last message of a run says whose it is, and
the server answers a call of the same client when it has seen that.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from importlib import import_module
from typing import Any

import uvloop
from zmq.auth import load_certificate
from zmq.auth.thread import ThreadAuthenticator

from contenders.contender import HOST, Contender
from contents import Counter

# mypy sees no attributes of a package whose modules it is told to skip.
zmq: Any = import_module("zmq")
zmq_asyncio: Any = import_module("zmq.asyncio")

#: Size of the message that ends a run, and of the call that asks for it; no payload
#: has it.
MARK_BYTES = 11
#: Sockets of a process.
MAX_SOCKETS = 20_000
#: Messages in a row between two looks at the other socket.
RUN = 1000


class ZmqBlocking(Contender):
    push: Any = None
    dealer: Any = None
    worker: threading.Thread | None = None
    authenticator: Any = None

    @staticmethod
    def new_loop() -> asyncio.AbstractEventLoop:
        return uvloop.new_event_loop()

    # --- server ----------------------------------------------------------------------

    async def serve(self, counter: Counter) -> int:
        # Of the authenticator's kind, in both variants; sockets share what is below.
        self.context = zmq.Context.instance()
        self.authenticator = ThreadAuthenticator(self.context)
        self.authenticator.start()
        self.authenticator.configure_curve(domain="*", location=self.trust)
        self.pull, port = self._bind(zmq.PULL)
        self.router, calls = self._bind(zmq.ROUTER)
        (self.trust / f"{port}.calls").write_text(str(calls))
        self.marks: set[bytes] = set()
        self.asked: dict[bytes, list[bytes]] = {}
        self.counter = counter
        self.start_serving()
        return port

    def _bind(self, kind: int) -> tuple[Any, int]:
        socket = self.wrapped(self.context).socket(kind)
        public, secret = load_certificate(self.trust / "server.key_secret")
        socket.curve_publickey, socket.curve_secretkey = public, secret
        socket.curve_server = True
        return socket, socket.bind_to_random_port(f"tcp://{HOST}")

    def wrapped(self, context: Any) -> Any:
        """The context whose sockets this variant uses."""
        return context

    def start_serving(self) -> None:
        """Begin to receive."""
        self.worker = threading.Thread(target=self._work, daemon=True)
        self.worker.start()

    def _work(self) -> None:
        poller = zmq.Poller()
        poller.register(self.pull, zmq.POLLIN)
        poller.register(self.router, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self.router in ready:
                for reply in self.answers(self.router.recv_multipart()):
                    self.router.send_multipart(reply)
            if self.pull in ready:
                for reply in self._pull_run():
                    self.router.send_multipart(reply)

    def _pull_run(self) -> list[list[bytes]]:
        receive, handle = self.pull.recv, self.counter.handle
        try:
            for _ in range(RUN):
                payload = receive(zmq.NOBLOCK)
                if len(payload) == MARK_BYTES:
                    return self.marked(payload)
                handle(payload)
        except zmq.Again:
            pass
        return []

    def answers(self, call: list[bytes]) -> list[list[bytes]]:
        """What is to be sent now that a call has come."""
        payload = call[-1]
        if len(payload) == MARK_BYTES and payload not in self.marks:
            self.asked[payload] = call
            return []
        return [call]

    def marked(self, mark: bytes) -> list[list[bytes]]:
        """The same for the end of a run of messages."""
        self.marks.add(mark)
        call = self.asked.pop(mark, None)
        return [call] if call else []

    # --- client ----------------------------------------------------------------------

    async def connect(self, port: int, number: int = 0) -> None:
        self.context = zmq.Context.instance()
        if self.context.get(zmq.MAX_SOCKETS) < MAX_SOCKETS:
            self.context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
        self.port = port
        calls = int((self.trust / f"{port}.calls").read_text())
        self.dealer = self._dial(zmq.DEALER, calls)

    def _dial(self, kind: int, port: int) -> Any:
        socket = self.wrapped(self.context).socket(kind)
        public, secret = load_certificate(self.trust / "client.key_secret")
        socket.curve_publickey, socket.curve_secretkey = public, secret
        socket.curve_serverkey, _ = load_certificate(self.trust / "server.key")
        socket.connect(f"tcp://{HOST}:{port}")
        return socket

    def pushing(self) -> Any:
        """The socket of one-way messages, made when it is needed."""
        if self.push is None:
            self.push = self._dial(zmq.PUSH, self.port)
        return self.push

    async def send_many(self, payload: bytes, count: int) -> None:
        send = self.pushing().send
        for _ in range(count):
            send(payload)

    async def one_way(self, payload: bytes, count: int) -> None:
        await self.send_many(payload, count)
        mark = os.urandom(MARK_BYTES)
        await self.end_run(mark)
        await self.call(mark)

    async def end_run(self, mark: bytes) -> None:
        """Send the mark behind the messages."""
        self.pushing().send(mark)

    async def call(self, payload: bytes) -> bytes:
        self.dealer.send(payload)
        reply: bytes = self.dealer.recv()
        return reply

    async def calls(
        self, payload: bytes, count: int, outstanding: int, *, metadata: bool = False
    ) -> list[float]:
        if metadata:
            raise SystemExit("zmq has no metadata")
        send, receive = self.dealer.send, self.dealer.recv
        began: list[float] = []
        times: list[float] = []
        while len(times) < count:
            while len(began) < min(count, len(times) + outstanding):
                began.append(time.perf_counter())
                send(payload)
            if receive() != payload:
                raise SystemExit("a call was answered with something else")
            times.append(time.perf_counter() - began[len(times)])
        return times

    async def disconnect(self) -> None:
        for socket in (self.dealer, self.push):
            if socket is not None:
                socket.close(linger=0)
        self.dealer = self.push = None

    async def close(self) -> None:
        if self.authenticator is None:
            await self.disconnect()
            return
        # Its thread waits in a socket: the process ends without asking it.
        os._exit(0)


class ZmqAsyncio(ZmqBlocking):
    waiting: Any = None

    def wrapped(self, context: Any) -> Any:
        return zmq_asyncio.Context(context)

    def start_serving(self) -> None:
        self.tasks = [
            asyncio.create_task(self._serve_messages()),
            asyncio.create_task(self._serve_calls()),
        ]

    async def _serve_messages(self) -> None:
        receive, handle = self.pull.recv, self.counter.handle
        while True:
            payload = await receive()
            if len(payload) != MARK_BYTES:
                handle(payload)
                continue
            for reply in self.marked(payload):
                await self.router.send_multipart(reply)

    async def _serve_calls(self) -> None:
        while True:
            for reply in self.answers(await self.router.recv_multipart()):
                await self.router.send_multipart(reply)

    async def connect(self, port: int, number: int = 0) -> None:
        await super().connect(port, number)
        self.waiting = []
        self.replies = asyncio.create_task(self._read_replies(self.dealer))

    async def _read_replies(self, dealer: Any) -> None:
        # They come in the order of the calls.
        while True:
            reply = await dealer.recv()
            self.waiting.pop(0).set_result(reply)

    async def send_many(self, payload: bytes, count: int) -> None:
        send = self.pushing().send
        for _ in range(count):
            await send(payload)

    async def end_run(self, mark: bytes) -> None:
        await self.pushing().send(mark)

    async def call(self, payload: bytes) -> bytes:
        waiter: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.waiting.append(waiter)
        await self.dealer.send(payload)
        return await waiter

    calls = Contender.calls

    async def disconnect(self) -> None:
        self.replies.cancel()
        await asyncio.wait([self.replies])
        await super().disconnect()
