"""The features of HELLO for several instances of one node name.

The feature WORKERS tells a peer how many workers a group has. A service that knows the
number can keep a link with each worker, although all of them have one address.

A dialer sends the feature ADDITIONAL if it wants an instance that it has no link with.
The acceptor then never refuses the dial because of another link between the two
instances. It says HELLO, so that the dialer learns which instance has answered. The
dialer decides: it refuses an instance that it is linked with, and dials again.

Peers of older versions ignore both features. They may refuse an additional dial before
they have said HELLO.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fastnode.limits import MAX_WORKERS

if TYPE_CHECKING:
    from fastnode.wire.hello import Hello

__all__ = ["introduce", "is_additional", "workers_of"]


def introduce(hello: Hello, workers: int, *, additional: bool) -> Hello:
    """Return a HELLO with those of the two features that this side needs.

    Args:
        hello: the HELLO without the features.
        workers: number of workers in the group of this node; 1 if it is in no group.
        additional: whether this dial wants an instance that is not linked.
    """
    if workers == 1 and not additional:
        return hello
    return replace(
        hello,
        group_workers=workers if workers > 1 else None,
        wants_another=b"" if additional else None,
    )


def workers_of(hello: Hello) -> int:
    """Return how many workers the group of a peer has; 1 if the peer does not say.

    A peer cannot claim more than MAX_WORKERS.

    Args:
        hello: the HELLO of the peer.
    """
    return min(hello.group_workers or 1, MAX_WORKERS)


def is_additional(hello: Hello) -> bool:
    """Return whether a dialer wants an instance that it has no link with.

    Args:
        hello: the HELLO of the dialer.
    """
    return hello.wants_another is not None
