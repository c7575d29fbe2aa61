"""The programs of `test_blocking.py`: a process that uses a `Client`.

``python -m helpers.blocking_main FOLDER ADDRESS LOOP PROGRAM``. It calls the node beta,
and says what came of it in lines of JSON.
"""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

from fastnode import LinkClosed, NetworkOptions, NodeOptions, Route
from helpers.child import manager_of
from helpers.nodes import WAIT_SECONDS, A, B

if TYPE_CHECKING:
    from fastnode import Peer
    from fastnode.blocking import Client

PROGRAMS: dict[str, Callable[[], object]] = {}


def program(function: Callable[[], object]) -> Callable[[], object]:
    """Register a program under the name of its function."""
    PROGRAMS[function.__name__] = function
    return function


def make_client(**network: Any) -> Client:
    """A client. This imports `fastnode.blocking`, which registers an exit function."""
    from fastnode.blocking import Client

    folder, address, loop = sys.argv[1:4]
    host, port = address.rsplit(":", 1)
    options = NodeOptions(
        cert_manager=manager_of(Path(folder), A),
        network=NetworkOptions(
            routes=[Route(f"^{B}$", host, int(port))],
            keepalive_interval=60.0,
            slow_callback_seconds=60.0,
            **network,
        ),
    )
    return Client(A, options, loop=cast("Literal['asyncio', 'uvloop']", loop))


def say(**what: Any) -> None:
    """One line, in one piece, also if several processes say something."""
    os.write(1, json.dumps({"pid": os.getpid(), **what}).encode() + b"\n")


def echo(client: Client, text: str = "hello") -> str:
    """Call once."""
    return client.call(B, "echo", text.encode(), timeout=WAIT_SECONDS).decode()


def forked(child: Callable[[], object]) -> int:
    """Fork; the child ends through the interpreter's exit. Return its pid."""
    pid = os.fork()
    if pid == 0:
        child()
        sys.exit(7)
    return pid


def reaped(pid: int) -> int:
    """Wait for the end of a child, and return its status."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def late_use(client: Client) -> str:
    """Use a client that was closed."""
    try:
        return echo(client)
    except LinkClosed as error:
        return str(error)


# --- the end of the interpreter ----------------------------------------------------


@program
def open_at_exit() -> None:
    """The client is not closed, and what was sent arrives."""
    client = make_client()
    say(echo=echo(client))
    for number in range(100):
        client.send(B, "keep", b"%d" % number)


@program
def exception() -> NoReturn:
    unused, client = make_client(), make_client()
    echo(client)
    say(unused=repr(unused))
    raise SystemExit(3)


@program
def daemon_thread() -> None:
    """A daemon thread waits, and an exit function wants a lock that it holds."""
    lock = threading.Lock()
    entered = threading.Event()

    @atexit.register
    def after_the_clients() -> None:
        say(released=lock.acquire(timeout=WAIT_SECONDS), late=late_use(client))

    client = make_client()

    @atexit.register
    def before_the_clients() -> None:
        say(echo=echo(client))

    def wait() -> None:
        with lock:
            entered.set()
            client.call(B, "never", b"")

    threading.Thread(target=wait, daemon=True).start()
    entered.wait(WAIT_SECONDS)
    client.call(B, "begun", b"", timeout=WAIT_SECONDS)


@program
def busy_daemons() -> None:
    """Daemon threads go on and on."""
    client = make_client()
    echo(client)

    def go_on() -> None:
        while True:
            client.send(B, "echo", b"x")
            echo(client)

    for _ in range(4):
        threading.Thread(target=go_on, daemon=True).start()


@program
def hard_exit() -> NoReturn:
    client = make_client()
    say(echo=echo(client))
    os._exit(5)


@program
def stuck_peer() -> None:
    """The peer takes no more messages, and some are queued."""
    logging.basicConfig(format="%(message)s")
    began = 0.0

    @atexit.register
    def after_the_clients() -> None:
        say(seconds=time.monotonic() - began)

    client = make_client()

    @atexit.register
    def before_the_clients() -> None:
        nonlocal began
        began = time.monotonic()

    from fastnode.blocking import client as module
    from fastnode.blocking import loop_thread

    for each in (module, loop_thread):
        vars(each)["CLIENT_EXIT_SECONDS"] = 0.2
    for _ in range(3):
        client.send(B, "stuck", bytes(700_000))
    say(queued=client.stats()[0][1].queued_bytes > 0)


@program
def interrupted() -> None:
    """SIGINT while the main thread waits."""
    client = make_client()
    echo(client)

    def interrupt() -> None:
        client.call(B, "begun", b"", timeout=WAIT_SECONDS)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    try:
        client.call(B, "never", b"")
    except KeyboardInterrupt:
        client.call(B, "ended", b"", timeout=10)  # the handler was cancelled
        say(came="KeyboardInterrupt", echo=echo(client))


# --- fork ----------------------------------------------------------------------------


@program
def made_before_fork() -> None:
    """Nothing runs before the fork; parent and children use the same client."""
    client = make_client()
    assert threading.active_count() == 1
    pids = [forked(lambda: say(child=echo(client))) for _ in range(2)]
    say(parent=echo(client), reaped=[reaped(pid) for pid in pids])


@program
def used_before_fork() -> None:
    """The client runs when the process forks; the link of the parent lives on."""
    client = make_client()
    echo(client)
    before = client.stats()[0][1]

    def child() -> None:
        say(stats=len(client.stats()), child=echo(client))
        gc.collect()

    pid = forked(child)
    for number in range(50):
        assert echo(client, str(number)) == str(number)
    status = reaped(pid)
    echo(client)
    after = client.stats()[0][1]
    say(parent=echo(client), reaped=[status])
    say(same_link=after.calls_sent >= before.calls_sent + 51)


@program
def idle_child() -> None:
    """The child does not use the client: it collects garbage, and ends."""
    client = make_client()
    echo(client)

    def child() -> None:
        nonlocal client
        say(closed=list(client.close()))
        del client
        gc.collect()

    pid = forked(child)
    say(reaped=[reaped(pid)], parent=echo(client))


@program
def fork_from_busy_threads() -> None:
    """Forks while other threads call, so that the loop is never idle."""
    client = make_client()
    echo(client)
    over = threading.Event()

    def call() -> None:
        while not over.is_set():
            echo(client)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    pids = [forked(lambda: say(child=echo(client))) for _ in range(3)]
    statuses = [reaped(pid) for pid in pids]
    over.set()
    for thread in threads:
        thread.join()
    say(parent=echo(client), reaped=statuses)


@program
def fork_while_a_hook_runs() -> None:
    """A hook holds a lock when the process forks. The child needs the lock too."""
    lock = threading.Lock()
    entered, forking, go_on = (threading.Event() for _ in range(3))

    def authorize(peer: Peer) -> bool:
        with lock:
            entered.set()
            forking.wait(WAIT_SECONDS)
            go_on.wait(0.2)  # nobody sets it: the fork has 0.2 s to come too early
        return True

    client = make_client(authorize=authorize)
    # Runs before the hook of fastnode.blocking, which was registered before.
    os.register_at_fork(before=forking.set)
    thread = threading.Thread(target=echo, args=(client,))
    thread.start()
    entered.wait(WAIT_SECONDS)
    pid = forked(lambda: say(child=echo(client) if not lock.locked() else "locked"))
    thread.join()
    say(parent=echo(client), reaped=[reaped(pid)])


@program
def fork_in_signal_handler() -> None:
    """A signal handler forks while its thread waits for a call."""
    client = make_client()
    echo(client)
    pids: list[int] = []

    def fork(number: int, frame: object) -> None:
        pids.append(os.fork())

    signal.signal(signal.SIGUSR1, fork)

    def interrupt() -> None:
        client.call(B, "begun", b"", timeout=WAIT_SECONDS)
        os.kill(os.getpid(), signal.SIGUSR1)
        while not pids:
            time.sleep(0.001)  # it forks in the main thread
        client.call(B, "release", b"", timeout=WAIT_SECONDS)

    threading.Thread(target=interrupt).start()
    try:
        reply = client.call(B, "wait", b"", timeout=WAIT_SECONDS)
    except LinkClosed as error:
        say(child=str(error), echo=echo(client))
        sys.exit(7)
    say(parent=reply.decode(), reaped=[reaped(pids[0])])


@program
def closed_before_fork() -> None:
    client = make_client()
    echo(client)
    client.close()
    pid = forked(lambda: say(child=late_use(client)))
    say(reaped=[reaped(pid)])


def main() -> None:
    PROGRAMS[sys.argv[4]]()


if __name__ == "__main__":
    main()
