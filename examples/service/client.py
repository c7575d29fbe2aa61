"""A client of the gateway: it tries each endpoint, and then orders until SIGTERM."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter

from fastnode import FastnodeError, Service, run, start_node
from options import node_name, node_options

CALL_SECONDS = 10.0
#: Orders under way at once.
OUTSTANDING = 8


def say(text: str) -> None:
    """Print a line at once."""
    print(f"client: {text}", flush=True)


async def order(gateway: Service) -> str:
    """Order something. Return the instance that has written the invoice."""
    reply = await gateway.call("order", b"apples", timeout=CALL_SECONDS)
    return reply.decode()


async def try_each_endpoint(gateway: Service) -> Counter[str]:
    """Show what a service does with calls. Return the orders of each instance."""
    took: Counter[str] = Counter()
    for _ in range(30):
        took.update(await asyncio.gather(*(order(gateway) for _ in range(OUTSTANDING))))
    least = 100 * min(took.values()) // took.total()
    say(f"{took.total()} orders, by {len(took)} instances, the least took {least} %")

    found = set()
    for _ in range(10):
        found.add(await gateway.call("balance", b"customer-7", timeout=CALL_SECONDS))
    say(f"the same customer found {len(found)} instance")

    told = await gateway.call("reload", b"", timeout=CALL_SECONDS)
    say(f"{told.decode()} instances have reloaded")
    return took


async def order_until(stop: asyncio.Event, gateway: Service, known: set[str]) -> None:
    """Keep orders under way. Say which ones were lost."""
    done = lost = 0
    say("orders all the time from now on")

    async def customer() -> None:
        nonlocal done, lost
        while not stop.is_set():
            try:
                instance = await order(gateway)
            except FastnodeError as error:
                lost += 1
                say(f"an order was lost: {error!r}")
                await asyncio.sleep(0.1)
            else:
                done += 1
                if instance not in known:
                    known.add(instance)
                    say(f"a new instance took an order: {instance}")

    async with asyncio.TaskGroup() as group:
        for _ in range(OUTSTANDING):
            group.create_task(customer())
    say(f"{done} orders meanwhile, lost: {lost}")


async def main() -> None:
    """Run the client. It has no acceptor, because nobody calls it."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with await start_node(node_name(), node_options()) as node:
        gateway = node.service("gateway")
        await gateway.wait_ready(timeout=30)
        took = await try_each_endpoint(gateway)
        await order_until(stop, gateway, set(took))


if __name__ == "__main__":
    run(main())
