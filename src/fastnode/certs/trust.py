"""What has to hold of a pool that takes the place of one in use."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from fastnode.certs.context import make_client_context
from fastnode.errors import ConfigError, SettingsFrozenError

if TYPE_CHECKING:
    from fastnode.certs.pool import CertPool

__all__ = ["check_live", "check_replacement"]

#: What ``live_trust=True`` allows to be replaced in use.
LIVE: Final = frozenset({"client_cas", "root_cas"})


def check_live(settings: Iterable[str], *, live_trust: bool) -> None:
    """Raise `SettingsFrozenError` if one of the settings is fixed in use."""
    for setting in settings:
        if live_trust and setting in LIVE:
            continue
        hint = (
            "client_auth and server_name are fixed at start, with live_trust=True too: "
            "restart the node"
            if live_trust
            else "CA pools, client_auth and server_name are fixed at start: restart "
            "the node, or make its manager with live_trust=True, which allows CA pools "
            "to be replaced"
        )
        raise SettingsFrozenError(
            f"{setting} cannot be changed: a node uses this manager", hint=hint
        )


def check_replacement(
    setting: str,
    pool: CertPool | None,
    *,
    needed: bool,
    minimum_version: ssl.TLSVersion,
) -> None:
    """Raise `ConfigError` unless a pool can be used from the next handshake on.

    Args:
        needed: peers are verified against this setting, and None would be nothing to
            verify them against.
    """
    if pool is None:
        if needed:
            raise ConfigError(
                f"{setting} cannot become None while peers are verified against it; "
                "the old one stays in use",
                hint="assign a pool that holds at least one authority",
            )
        return
    if not len(pool) and not pool.is_system:
        raise ConfigError(
            f"the new {setting} is a pool without certificates, which trusts nobody; "
            "the old one stays in use",
            hint="add an authority to it before it is assigned",
        )
    # Made now, so that a pool that OpenSSL refuses is refused here, whole.
    probe = make_client_context(
        None,
        root_cas=pool,
        minimum_version=minimum_version,
        insecure_skip_verify=False,
    )
    del probe
