"""One node, one process: what becomes of a node in a child that `os.fork` makes.

The child has a copy of everything and shares the parent's sockets. Whatever it did with
them would break the parent's links, and it does much without being asked: its loop, if
it goes on, reads; transports are closed by the garbage collector. So in the child,
before anything else runs there, the sockets are replaced (`dup2`) by one end of a pair
that nobody uses, and the links are told to raise. The parent's descriptors stay as they
are, and the hot path pays nothing.

The epoll that the loop waits on is shared as well: the child's loop gets a fresh one,
or it would put descriptors into the parent's and take them out. libuv has a function
for that, which uvloop calls for the processes that it starts, and for no others.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import os
import select
import signal
import socket
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from fastnode.errors import ConfigError, Side, renewed

if TYPE_CHECKING:
    from fastnode.node.acceptor import Acceptor
    from fastnode.node.dial import Dialer
    from fastnode.node.links import LinkRegistry

__all__ = ["ForkGuard", "handled_signals", "plug", "renew_selector", "watch_forks"]


class Guard(Protocol):
    """Something that a forked child must not touch."""

    def in_child(self) -> None:
        """Run in the child, before anything else does."""


class ForkGuard:
    """Keeps a node's forked children from its sockets.

    Args:
        name: the node's.
        links: its connections.
        dialer: makes its dials.
    """

    def __init__(self, name: str, links: LinkRegistry, dialer: Dialer) -> None:
        self._name = name
        self._links = links
        self._dialer = dialer
        self._acceptors: Iterable[Acceptor] = ()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.error: ConfigError | None = None

    def watch(
        self, loop: asyncio.AbstractEventLoop, acceptors: Iterable[Acceptor]
    ) -> None:
        """The node runs from now on."""
        self._loop = loop
        self._acceptors = acceptors
        watch_forks(self)

    def check(self) -> None:
        """Raise in a child.

        Raises:
            ConfigError: this process was forked from the node's.
        """
        if self.error is not None:
            raise renewed(self.error)

    def in_child(self) -> None:
        """This is a child: let go of the node."""
        self.error = ConfigError(
            f"node {self._name} belongs to the process that started it, and this one "
            f"was forked from it",
            side=Side.LOCAL,
            hint="one node, one process: start a node of its own after the fork",
        )
        descriptors = [protocol.orphan(self.error) for protocol in self._links]
        for acceptor in self._acceptors:
            descriptors += [sock.fileno() for sock in acceptor.sockets()]
        self._dialer.cancel()
        self._links.disown()
        plug(descriptors)
        renew_selector(self._loop)


_guards: weakref.WeakSet[Guard] = weakref.WeakSet()
#: Signals that nobody blocks all at once but libuv.
NEVER_BLOCKED = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
#: Both ends stay open, so that nothing ever comes of them, not even an end.
_dummies: list[socket.socket] = []


def watch_forks(guard: Guard) -> None:
    """Call `guard.in_child` in forked children, as long as the guard lives."""
    _guards.add(guard)


#: Signals that a loop of this process handles.
_handled: set[signal.Signals] = set()
#: Of the thread that forks: the signals that it blocked before.
_masks = threading.local()


@contextmanager
def handled_signals(*numbers: signal.Signals) -> Iterator[None]:
    """A loop handles these signals, and forked children do not.

    A child has a copy of the handlers, and of the socket that wakes the loop. Without
    this the parent's loop would handle a signal to the child, and the child would not
    end. In the child these signals have their default meaning.
    """
    _handled.update(numbers)
    try:
        yield
    finally:
        _handled.difference_update(numbers)


def _before_fork() -> None:
    # A signal to the child waits until the child has released the handlers.
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _handled)


def _after_fork_in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _release_signals() -> None:
    if _handled:
        signal.set_wakeup_fd(-1)
    for number in _handled:
        interrupt = number == signal.SIGINT
        usual = signal.default_int_handler if interrupt else signal.SIG_DFL
        signal.signal(number, usual)
    _handled.clear()
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def plug(descriptors: Iterable[int]) -> None:
    """Put a socket on which nothing happens in the place of these."""
    for descriptor in descriptors:
        if descriptor >= 0:
            if not _dummies:
                _dummies.extend(socket.socketpair())
                for dummy in _dummies:
                    dummy.setblocking(False)
            os.dup2(_dummies[0].fileno(), descriptor, inheritable=False)


def renew_selector(loop: asyncio.AbstractEventLoop | None) -> None:
    """In a child: the loop has a selector of its own from now on."""
    if loop is not None and loop.is_closed():
        return  # libuv would abort the process
    if loop is not None and type(loop).__module__.partition(".")[0] == "uvloop":
        # libuv blocks all signals while it starts a process: that child becomes another
        # program at once, and libuv needs its loop until then.
        if not signal.pthread_sigmask(signal.SIG_BLOCK, ()) >= NEVER_BLOCKED:
            _fork_libuv(loop)
        return
    epoll = getattr(select, "epoll", None)
    selector = getattr(loop, "_selector", None)
    if epoll is None or selector is None or not hasattr(selector, "fileno"):
        return
    fresh = epoll()
    os.dup2(fresh.fileno(), selector.fileno(), inheritable=False)
    fresh.close()


def _fork_libuv(loop: asyncio.AbstractEventLoop) -> None:
    """``uv_loop_fork`` on uvloop's loop, through the pointer that it gives away."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = (
        ctypes.c_void_p,
        [ctypes.py_object, ctypes.c_char_p],
    )
    # A uvloop that does not say so leaves the child's loop as it is.
    with suppress(AttributeError, ImportError, OSError, ValueError):
        module: Any = importlib.import_module("uvloop.loop")
        capsule = module.libuv_get_loop_t_ptr(loop)
        fork = ctypes.PyDLL(module.__file__).uv_loop_fork
        fork.argtypes = [ctypes.c_void_p]
        fork(pointer(capsule, None))


def _after_fork() -> None:
    for guard in list(_guards):
        guard.in_child()
    _guards.clear()
    _release_signals()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork,
)
