"""Key-exchange groups of a context: the list that OpenSSL offers and accepts."""

from __future__ import annotations

import ssl
from functools import cache
from typing import Final

from fastnode.errors import ConfigError, Side
from fastnode.groups import DEFAULT_GROUPS, KNOWN_GROUPS, is_post_quantum
from fastnode.openssl.verification import HookedContext, why_unavailable

__all__ = ["available_groups", "check_available", "limit_groups"]

#: The only group of contexts whose OpenSSL cannot be reached. Every implementation of
#: TLS 1.3 has it (RFC 8446, 9.1).
SINGLE: Final = "P-256"
#: From here on a list says for which groups a dialer sends key shares at once, and
#: which groups an acceptor prefers even if that costs a round trip.
LISTS_SAY_MORE: Final = (3, 5, 0)


def limit_groups(
    context: ssl.SSLContext, hook: HookedContext | None, groups: tuple[str, ...] | None
) -> None:
    """Let a new context offer and accept some groups only.

    Args:
        hook: reaches the OpenSSL behind the context. Without it, Python allows one
            group: P-256 if it is in the list, else the first one that can be set.
        groups: canonical names, best first; None: the default, as far as OpenSSL has
            it.

    Raises:
        ConfigError: OpenSSL does not have one of them.
    """
    if hook is None:
        _set_one(context, groups)
        return
    names = _default() if groups is None else groups
    if not hook.set_groups(_as_openssl_writes(names)):
        check_available(names)
        raise ConfigError(f"OpenSSL does not take the groups {', '.join(names)}")


@cache
def available_groups() -> tuple[str, ...]:
    """Return those of `KNOWN_GROUPS` that this process's TLS library can use."""
    if why_unavailable() is None:
        trial = HookedContext(ssl.PROTOCOL_TLS_CLIENT)
        return tuple(n for n in KNOWN_GROUPS if trial.set_groups(n.encode()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return tuple(name for name in KNOWN_GROUPS if _takes(context, name))


def check_available(groups: tuple[str, ...]) -> None:
    """Raise `ConfigError` unless this process's TLS library can use all of them.

    Args:
        groups: canonical names.
    """
    known = available_groups()
    for name in groups:
        if name not in known:
            raise ConfigError(
                f"the TLS library of this interpreter ({ssl.OPENSSL_VERSION}) does not "
                f"have the key-exchange group {name}",
                side=Side.LOCAL,
                hint=f"leave it out, or use another interpreter; this one has "
                f"{', '.join(known)}",
            )


@cache
def _default() -> tuple[str, ...]:
    known = available_groups()
    return tuple(name for name in DEFAULT_GROUPS if name in known)


def _as_openssl_writes(names: tuple[str, ...]) -> bytes:
    """The list in OpenSSL's words.

    A hybrid that is first gets a key share, and so does the first curve behind it:
    then a handshake with a peer that does not have the hybrid takes no further round
    trip. An acceptor asks for the hybrid where the dialer has it and sent no share.
    """
    if ssl.OPENSSL_VERSION_INFO[:3] < LISTS_SAY_MORE:
        return ":".join(names).encode()
    shares = {names[0]}
    if is_post_quantum(names[0]):
        shares.update([name for name in names if not is_post_quantum(name)][:1])
    text = ""
    for at, name in enumerate(names):
        if at:
            text += "/" if is_post_quantum(names[at - 1]) else ":"
        text += f"*{name}" if name in shares else name
    return text.encode()


def _set_one(context: ssl.SSLContext, groups: tuple[str, ...] | None) -> None:
    names = (SINGLE,) if groups is None else groups
    check_available(names)
    _takes(context, SINGLE if SINGLE in names else names[0])


def _takes(context: ssl.SSLContext, name: str) -> bool:
    """Have a context use one group alone; whether Python's `ssl` knows it."""
    for each in (name, *KNOWN_GROUPS[name]):
        try:
            context.set_ecdh_curve(each)
        except ValueError:
            continue
        return True
    return False
