"""The gateway: it takes orders from clients, and calls the instances of `billing`.

BILLING_INSTANCES   how many instances of `billing` the gateway waits for before it is
                    ready; 1 if it is not set.
"""

from __future__ import annotations

import os

from fastnode import Message, Node, run_node
from options import node_name, options

#: Seconds for one call of `billing`, with all its retries.
CALL_SECONDS = 5.0
#: Seconds that the first instances of `billing` have to come up.
START_SECONDS = 30.0


async def setup(node: Node) -> None:
    """Register the endpoints. The gateway is ready once it has found `billing`."""
    billing = node.service("billing")

    @node.handler("order")
    async def order(message: Message) -> bytes:
        """Any instance may write the invoice. Each gets its share."""
        return await billing.call("invoice", message.payload, timeout=CALL_SECONDS)

    @node.handler("balance")
    async def balance(message: Message) -> bytes:
        """One customer always finds the same instance, and its cache."""
        return await billing.call(
            "balance", b"", key=bytes(message.payload), timeout=CALL_SECONDS
        )

    @node.handler("reload")
    async def reload(message: Message) -> bytes:
        """Tell every instance, and count those that have replied."""
        del message
        results = await billing.broadcast("reload", b"", timeout=CALL_SECONDS)
        replied = sum(result.error is None for result in results)
        return f"{replied} of {len(results)}".encode()

    def ready_changed(ready: bool) -> None:
        print(f"gateway is {'ready' if ready else 'leaving'}", flush=True)

    node.on_ready_change(ready_changed)
    instances = int(os.environ.get("BILLING_INSTANCES", "1"))
    await billing.wait_ready(instances, timeout=START_SECONDS)


if __name__ == "__main__":
    run_node(node_name(), options, setup)
