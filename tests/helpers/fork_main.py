"""The program of `test_fork.py`: a process with two linked nodes that forks.

``python -m helpers.fork_main LOOP HOW``. It says in two lines of JSON what the child
got for touching the nodes, and how the parent's link fared.

HOW: ``own`` the child uses a loop of its own; ``same`` it goes on with the inherited
one; ``collect`` it only collects garbage. Each ends through the interpreter's exit,
which frees what the child inherited.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import uvloop

from fastnode import ConfigError, Link, Message, Node
from helpers.nodes import WAIT_SECONDS, B, introduce, pair, running, until

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def uses(a: Node, link: Link) -> dict[str, Callable[[], Awaitable[Any]]]:
    """What awaits something of a node or a link."""
    return {
        "call": lambda: link.call("echo", b"", timeout=2),
        "drain": link.drain,
        "ping": link.ping,
        "close": link.close,
        "wait_closed": link.wait_closed,
        "connect": lambda: a.connect(B),
        "connect elsewhere": lambda: a.connect("gamma@127.0.0.1"),
        "node.send": lambda: a.send(B, "echo", b""),
        "node.call": lambda: a.call(B, "echo", b"", timeout=2),
        "reconnect": lambda: a.reconnect(timeout=2),
        "stop": a.stop,
    }


async def touch(a: Node, link: Link) -> dict[str, str]:
    """Use everything; what came of it."""
    found = {}
    for name, use in uses(a, link).items():
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await use()
            found[name] = "nothing"
        except BaseException as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


async def be_child(
    how: str,
    a: Node,
    link: Link,
    loop: asyncio.AbstractEventLoop,
    task: asyncio.Task[Any],
    waiting: asyncio.Task[bytes],
) -> None:
    found: dict[str, str] = {}
    if how != "collect":
        try:
            link.send("echo", b"from the child")
            found["send"] = "nothing"
        except Exception as error:
            found["send"] = f"{type(error).__name__}: {error}"
    if how == "same":
        # asyncio takes the loop for not running, since its process is another. From
        # Python 3.14 on it has forgotten the task, too.
        asyncio._set_running_loop(loop)
        if asyncio.current_task() is None:
            asyncio._enter_task(loop, task)
        found |= await touch(a, link)
        await asyncio.sleep(0.3)
        came = waiting.exception()
        assert isinstance(came, ConfigError)
        found["call under way"] = f"ConfigError: {came} {came.begun}"
    elif how == "own":
        # In a thread: stock asyncio does not like a loop within a loop.
        thread = threading.Thread(
            target=lambda: found.update(asyncio.run(touch(a, link)))
        )
        thread.start()
        thread.join()
    os.write(1, json.dumps(found).encode() + b"\n")
    gc.collect()
    leave(7)


def leave(status: int) -> NoReturn:
    """End this process through the interpreter's exit, from within a coroutine.

    `sys.exit` would pass through the inherited loop. From Python 3.14 on asyncio
    refuses to leave a task there, because the loop is not the running one of this
    process. Then the loop would go on.
    """
    ctypes.pythonapi.Py_Exit(status)
    raise AssertionError


async def be_parent(pid: int, a: Node, b: Node, link: Link) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    ended = loop.run_in_executor(None, os.waitpid, pid, 0)
    calls = 0
    while not ended.done() or calls < 100:
        payload = os.urandom(10 + calls * 37 % 5000)
        assert await link.call("echo", payload, timeout=WAIT_SECONDS) == payload
        calls += 1
    _, status = await ended
    async with running("gamma@127.0.0.1", listens=False) as c:
        introduce(c, b)
        late = await c.call(B, "echo", b"late", timeout=WAIT_SECONDS)
    return {
        "status": os.waitstatus_to_exitcode(status),
        "closed": link.closed or b.links[0].closed,
        "late": late.decode(),
        "alive": [repr(link.error), repr(b.links[0].error)],
    }


async def main(how: str) -> None:
    async with pair({"keepalive_interval": 60.0}, {"keepalive_interval": 60.0}) as (
        a,
        b,
    ):
        b.handler("echo")(lambda m: m.payload)

        @b.handler("never")
        async def never(message: Message) -> None:
            await asyncio.Event().wait()

        link = await a.connect(B)
        waiting = asyncio.ensure_future(link.call("never", b""))
        await link.call("echo", b"first", timeout=WAIT_SECONDS)
        with socket.create_connection(b.acceptors[0].address):
            await until(lambda: b.acceptors[0].stats.connections == 2)
            link.send("echo", b"queued when it forks")
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            assert task is not None
            pid = os.fork()
            if pid == 0:
                await be_child(how, a, link, loop, task, waiting)
            found = await be_parent(pid, a, b, link)
        waiting.cancel()
    os.write(1, json.dumps(found).encode() + b"\n")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=LOOPS[sys.argv[1]]) as runner:
        runner.run(main(sys.argv[2]))
