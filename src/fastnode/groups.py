"""Names of key-exchange groups, and which of them fastnode allows.

A group is what both sides of a TLS handshake agree on to make a shared secret. Only
elliptic curves and hybrids of a curve with a post-quantum scheme are allowed. The
finite-field groups (ffdhe2048 to ffdhe8192) are refused: a stranger who sends a
recorded key share of ffdhe8192 makes its peer compute for 130 ms (the D(HE)at attack).
The same handshake costs about 1 ms with X25519.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from fastnode.errors import ConfigError, Side

__all__ = [
    "DEFAULT_GROUPS",
    "KNOWN_GROUPS",
    "canonical_group",
    "check_groups",
    "described_group",
    "is_post_quantum",
]

#: What a node offers and accepts by default, in order of preference. Each context
#: leaves out what its TLS library does not have.
DEFAULT_GROUPS: Final = ("X25519MLKEM768", "X25519", "P-256", "P-384")

#: Every group that may be chosen: the name that fastnode uses, and its other names.
KNOWN_GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "X25519MLKEM768": (),
    "SecP256r1MLKEM768": (),
    "SecP384r1MLKEM1024": (),
    "X25519": (),
    "X448": (),
    "P-256": ("P256", "secp256r1", "prime256v1"),
    "P-384": ("P384", "secp384r1"),
    "P-521": ("P521", "secp521r1"),
}

_CANONICAL: Final = {
    alias.lower(): name
    for name, aliases in KNOWN_GROUPS.items()
    for alias in (name, *aliases)
}
#: RFC 7919 (ffdhe), RFC 3526 (modp), and what programs call the same.
_FINITE_FIELD: Final = re.compile(r"(ffdhe|modp|dhe?)[-_]?\d*", re.IGNORECASE)


def canonical_group(name: str) -> str:
    """Return the one name that fastnode uses for a group.

    Args:
        name: any of its names, in any case. A name that is not known is returned as
            it is.
    """
    return _CANONICAL.get(name.lower(), name)


def is_post_quantum(name: str) -> bool:
    """Whether a group is a hybrid with a post-quantum scheme (ML-KEM).

    Args:
        name: the canonical name of a group.
    """
    return "MLKEM" in name.upper()


def described_group(name: str) -> str:
    """Return a group with a word on whether it is post-quantum, for people."""
    return f"{name} ({'post-quantum' if is_post_quantum(name) else 'not post-quantum'})"


def check_groups(what: str, given: object) -> tuple[str, ...] | None:
    """Check a choice of groups, without asking the TLS library.

    Args:
        what: the name of the option, for errors.
        given: names in order of preference, or None for the default.

    Returns:
        The canonical names, or None for the default.

    Raises:
        ConfigError: not a sequence of names, an empty one, a group that is named
            twice, a finite-field group, or a name that is not known.
    """
    if given is None:
        return None
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise _wrong(
            f"{what} is a sequence of names, not {given!r}",
            'write ["X25519", "P-256"]; None takes the default',
        )
    found: list[str] = []
    for name in given:
        if not isinstance(name, str):
            raise _wrong(
                f"{what} holds {name!r}, which is no name of a group",
                f"name some of {', '.join(KNOWN_GROUPS)}",
            )
        canonical = canonical_group(name)
        if _FINITE_FIELD.fullmatch(name):
            raise _wrong(
                f"{what} holds {name!r}, a finite-field group, which is not allowed: "
                "a stranger without a certificate can make this node compute for "
                "130 ms with one of them",
                f"name some of {', '.join(KNOWN_GROUPS)}",
            )
        if canonical not in KNOWN_GROUPS:
            raise _wrong(
                f"{what} holds {name!r}, which is not a known key-exchange group",
                f"name some of {', '.join(KNOWN_GROUPS)}",
            )
        if canonical in found:
            raise _wrong(
                f"{what} holds {canonical} twice", "name each group once, best first"
            )
        found.append(canonical)
    if not found:
        raise _wrong(
            f"{what} is empty: no handshake could succeed",
            "name at least one group; None takes the default",
        )
    return tuple(found)


def _wrong(message: str, hint: str) -> ConfigError:
    return ConfigError(message, hint=hint, side=Side.LOCAL)
