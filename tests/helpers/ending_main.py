"""A node whose handlers end the program: ``python -m helpers.ending_main LOOP``.

It prints its port, and what became of it when it has stopped.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

from fastnode import AcceptorOptions, Message, NetworkOptions, NodeOptions, start_node


async def main() -> None:
    network = NetworkOptions(plaintext=True, acceptors=[AcceptorOptions(port=0)])
    options = NodeOptions(network=network, shutdown_timeout=20.0)
    node = await start_node("child@127.0.0.1", options)
    async with node:
        node.handler("plain exit")(end_plainly)
        node.handler("async exit")(end_later)
        node.handler("batch exit", batch=True)(end_with_a_batch)
        node.handler("interrupt")(interrupt)
        print(node.acceptors[0].address[1], flush=True)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            print("cancelled", flush=True)
            raise
    print("not reached", flush=True)


def end_plainly(message: Message) -> bytes:
    raise SystemExit(7)


async def end_later(message: Message) -> bytes:
    await asyncio.sleep(0)
    raise SystemExit(7)


def end_with_a_batch(messages: list[Message]) -> None:
    raise SystemExit(7)


def interrupt(message: Message) -> bytes:
    raise KeyboardInterrupt


if __name__ == "__main__":
    factory = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    try:
        with asyncio.Runner(loop_factory=factory[sys.argv[1]]) as runner:
            runner.run(main())
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        raise SystemExit(8) from None
