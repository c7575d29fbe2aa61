"""One instance of the service `billing`. Start as many as you need."""

from __future__ import annotations

import asyncio

from fastnode import Message, Node, run_node
from options import node_name, options


def setup(node: Node) -> None:
    """Register the endpoints. The node takes calls when this has returned."""
    me = node.instance[:6]

    @node.handler("invoice")
    async def invoice(message: Message) -> bytes:
        """Write an invoice. The reply says which instance has done it."""
        del message
        await asyncio.sleep(0.005)  # stands for a database
        return me.encode()

    @node.handler("balance")
    def balance(message: Message) -> bytes:
        """Tell the balance of a customer, which this instance may have cached."""
        del message
        return me.encode()

    @node.handler("reload")
    def reload(message: Message) -> bytes:
        """Read the price list again."""
        del message
        return me.encode()

    def ready_changed(ready: bool) -> None:
        print(f"billing {me} is {'ready' if ready else 'leaving'}", flush=True)

    node.on_ready_change(ready_changed)


if __name__ == "__main__":
    run_node(node_name(), options, setup)
