"""``fastnode call``: call an endpoint and print the reply."""

from __future__ import annotations

import time
from typing import IO

import click

from fastnode.cli.dial import Dial, dial_options, run_dialer, time_limit
from fastnode.cli.input import Input
from fastnode.cli.output import write_whole
from fastnode.cli.records import json_option, payload, print_record, rounded
from fastnode.cli.values import NODE_NAME
from fastnode.errors import MessageTooLarge, Side
from fastnode.names import NodeName

__all__ = ["call"]


@click.command()
@click.argument("node", metavar="NODE", type=NODE_NAME)
@click.argument("endpoint")
@click.argument("file", type=click.File("rb"), default="-")
@dial_options("The time for the whole command.")
@json_option("Print the reply as one JSON object.")
def call(
    node: NodeName, endpoint: str, file: IO[bytes], dial: Dial, *, as_json: bool
) -> None:
    """Call ENDPOINT of NODE and print the reply.

    The payload is FILE, or standard input.

    \b
    Example:
      echo hello | fastnode call orders@127.0.0.1 echo --dir certs \\
          --as me@127.0.0.1
    """
    reply, seconds = run_dialer(_call(dial, node, endpoint, file))
    if as_json:
        fields = {"seconds": rounded(seconds), **payload(reply)}
        print_record("reply", node=str(node), endpoint=endpoint, **fields)
    else:
        write_whole(reply)


async def _call(
    dial: Dial, node: NodeName, endpoint: str, file: IO[bytes]
) -> tuple[bytes, float]:
    """Return the reply, and the seconds that the call took on a link that was up."""
    from fastnode.limits import DEFAULT_MAX_MESSAGE_BYTES

    async with time_limit(dial.timeout):
        request = await Input(file).read(DEFAULT_MAX_MESSAGE_BYTES + 1)
        if len(request) > DEFAULT_MAX_MESSAGE_BYTES:
            raise MessageTooLarge(
                f"the input has more than {DEFAULT_MAX_MESSAGE_BYTES} bytes",
                side=Side.LOCAL,
                hint="a call is one message, so call several times with less input",
            )
        async with dial.node(node) as own:
            await own.connect(str(node))
            began = time.perf_counter()
            # The node calls again on another link if the peer leaves just now.
            reply = await own.call(str(node), endpoint, request, timeout=dial.timeout)
            return reply, time.perf_counter() - began
