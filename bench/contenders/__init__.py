"""The same work, done in different ways."""

from __future__ import annotations

from contenders.contender import Contender
from contenders.fastnode_link import FastnodeLink
from contenders.streams import Streams
from contenders.uvloop_protocol import UvloopCoalesced, UvloopProtocol

__all__ = ["CONTENDERS", "Contender"]

CONTENDERS: dict[str, type[Contender]] = {
    contender.name: contender
    for contender in (FastnodeLink, UvloopCoalesced, UvloopProtocol, Streams)
}
