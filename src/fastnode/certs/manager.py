"""CertManager and CertAuthManager: the certificate of a node, and whom it trusts."""

from __future__ import annotations

import logging
import math
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final, TypeAlias

from fastnode.certs.certificate import Certificate
from fastnode.certs.client_auth import ClientAuth
from fastnode.certs.context import (
    ALPN_PROTOCOL,
    cannot_accept_any,
    make_client_context,
    make_server_context,
    resumes,
)
from fastnode.certs.expiry import when_ended
from fastnode.certs.on_update import OnUpdate
from fastnode.certs.pool import CertPool
from fastnode.certs.private_key import Password
from fastnode.certs.watch import CertificateWatch
from fastnode.errors import CertificateError, ConfigError, SettingsFrozenError
from fastnode.groups import check_groups
from fastnode.loggers import fields
from fastnode.names import check_flag, check_host, verified_host

__all__ = ["CertAuthManager", "CertManager"]

log = logging.getLogger("fastnode.certs")

#: The settings that ``live_trust=True`` allows to be replaced while nodes run.
LIVE: Final = frozenset({"client_cas", "root_cas"})


def _verify_mode(auth: ClientAuth) -> ssl.VerifyMode:
    if not auth.asks:
        return ssl.CERT_NONE
    return ssl.CERT_REQUIRED if auth.requires else ssl.CERT_OPTIONAL


def _generation(pool: CertPool | None) -> int:
    # Until a node uses a pool, the pool can only grow.
    return 0 if pool is None else pool.generation


#: Side and protocol, `insecure_skip_verify`, the state of the pool, the groups, and
#: whether TLS verifies the name of the server.
_Key: TypeAlias = tuple[str, bool, int, tuple[str, ...] | None, bool]


class CertManager:
    """Holds a certificate that can be replaced while nodes run.

    The manager supplies `ssl.SSLContext`s. Each change makes new contexts, and a
    context is never changed. A connection keeps the context that it began with. All
    methods may be called from any thread.

    Args:
        certificate: the certificate to show, as a server and as a client.
        minimum_version: TLS 1.3, or `ssl.TLSVersion.TLSv1_2` to allow both.

    This class asks for no client certificate, and verifies servers against the system's
    authorities. `CertAuthManager` can do more.
    """

    _may_lack_certificate = False

    def __init__(
        self,
        certificate: Certificate | None,
        *,
        minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ) -> None:
        if minimum_version not in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            raise ConfigError(
                f"minimum_version is {minimum_version!r}",
                hint="TLS 1.3, or 1.2; what is older is broken (RFC 8996)",
            )
        self._lock = threading.Lock()
        self._certificate: Certificate | None = None
        if certificate is not None or not self._may_lack_certificate:
            self._certificate = self._checked(certificate)
        self._minimum_version = minimum_version
        self._client_cas: CertPool | None = None
        self._client_auth = ClientAuth.NO_CLIENT_CERT
        self._root_cas: CertPool | None = None
        self._server_name: str | None = None
        self._verify_server_name = True
        self._frozen = False
        self._keeps_chains = False
        self._trust_changed_at = -math.inf
        self._rotations = 0
        self._failed_rotations = 0
        self._trust_watchers: list[Callable[[CertManager], object]] = []
        self._certificate_watchers: list[Callable[[CertManager], object]] = []
        self._contexts: dict[_Key, ssl.SSLContext] = {}

    @staticmethod
    def _checked(certificate: object) -> Certificate:
        if not isinstance(certificate, Certificate):
            raise ConfigError(
                f"a Certificate is needed, not {type(certificate).__name__}",
                hint="make one with Certificate.load or Certificate.from_pem",
            )
        return certificate

    # --- the certificate -------------------------------------------------------

    @property
    def certificate(self) -> Certificate | None:
        """The certificate for the next handshake; None: none is shown."""
        return self._certificate

    @property
    def expires_at(self) -> datetime | None:
        """When the certificate ends, aware, UTC; None if there is no certificate."""
        certificate = self._certificate
        return None if certificate is None else certificate.not_valid_after

    def update(self, certificate: Certificate) -> None:
        """Replace the certificate. The next handshake uses it, inbound and outbound.
        Links that are up keep the old one, unless their node renews them
        (``NodeOptions(renew_links="reconnect")``).

        Raises:
            ConfigError: `certificate` is not a `Certificate`.
            CertificateError: the new certificate has expired. The old one stays in use.
        """
        try:
            new = self._checked(certificate)
            self.check_update(new)
        except Exception:
            self.count_failed_rotation()
            raise
        with self._lock:
            in_use = self._frozen
            self._rotations += in_use
            self._certificate = new
            self._contexts = {}
            watchers = tuple(self._certificate_watchers)
        log.info(
            "certificate replaced: %r, SHA-256 %s; links that are up keep the old one, "
            'until node.reconnect() or NodeOptions(renew_links="reconnect") replaces '
            "them"
            if in_use
            else "certificate loaded: %r, SHA-256 %s",
            new,
            new.fingerprint,
            extra=fields(
                "certificate_replaced" if in_use else "certificate_loaded",
                certificate=new,
                fingerprint=new.fingerprint,
            ),
        )
        if new.not_valid_before > datetime.now(UTC):
            log.warning(
                "the certificate %r is not valid before %s UTC: peers refuse it until "
                "then; check the clocks",
                new,
                f"{new.not_valid_before:%Y-%m-%d %H:%M}",
                extra=fields("certificate_not_valid_yet", certificate=new),
            )
        for callback in watchers:
            callback(self)

    def watch_certificate(self, callback: Callable[[CertManager], object]) -> None:
        """Call a function after each `update`, in the thread that calls `update`.

        Args:
            callback: takes this manager; must not raise.
        """
        with self._lock:
            self._certificate_watchers.append(callback)

    def unwatch_certificate(self, callback: Callable[[CertManager], object]) -> None:
        """Take back `watch_certificate`."""
        with self._lock:
            if callback in self._certificate_watchers:
                self._certificate_watchers.remove(callback)

    @property
    def rotations(self) -> int:
        """How often certificate or trust were replaced while nodes used this
        manager."""
        return self._rotations

    @property
    def failed_rotations(self) -> int:
        """How often a new certificate or new trust was not taken while nodes used this
        manager. The old one stayed in use."""
        return self._failed_rotations

    def count_failed_rotation(self) -> None:
        """Count a certificate, or trust, that was not taken; see `failed_rotations`."""
        with self._lock:
            self._failed_rotations += self._frozen

    def check_update(self, new: Certificate) -> None:
        """Raise what `update` would raise for a certificate, and change nothing."""
        if new.expired:
            ended = when_ended(new.not_valid_after, datetime.now(UTC))
            raise CertificateError(
                f"the new certificate {ended}; the old one stays in use",
                hint="renew it",
            )
        # Make a context now, so that a pair that OpenSSL refuses changes nothing.
        probe = make_client_context(
            new,
            root_cas=None,
            minimum_version=self._minimum_version,
            insecure_skip_verify=True,
        )
        del probe

    def watch(
        self,
        cert_file: str | os.PathLike[str],
        key_file: str | os.PathLike[str] | None = None,
        *,
        password: Password = None,
        interval: float = 1.0,
        on_update: OnUpdate | None = None,
    ) -> CertificateWatch:
        """Load a pair from files now, and follow the files from then on.

        The files are read again every `interval` seconds. With the extra
        ``fastnode[watch]`` the system also reports changes at once. A new pair is taken
        as by `update`. A pair that does not fit yet causes a warning, and the old one
        stays in use.

        Args:
            cert_file, key_file, password: as for `Certificate.load`.
            interval: seconds, from 0.01 to 86400.
            on_update: a plain function. It is called with a `WatchUpdate` each time
                something new is in use, but not for what is loaded now. It runs in the
                thread of the watch, or of the caller of `CertificateWatch.check`, and
                holds up the watch until it returns. What it raises is logged.

        Raises:
            CertificateError: the files cannot be used now; nothing is followed.
            ConfigError: `interval` is out of range, or `on_update` is no plain
                function.
        """
        return CertificateWatch(
            self,
            cert_file,
            key_file,
            password=password,
            interval=interval,
            on_update=on_update,
        )

    # --- contexts --------------------------------------------------------------

    def server_context(
        self,
        *,
        insecure_skip_verify: bool = False,
        groups: Sequence[str] | None = None,
    ) -> ssl.SSLContext:
        """Return the context for connections that are accepted now. Do not change it.

        Args:
            insecure_skip_verify: ask for no client certificate.
            groups: key-exchange groups, as `NetworkOptions.groups`. Nodes that share
                this manager may differ in them.

        Raises:
            ConfigError: there is no certificate to show, `client_auth` verifies and
                `client_cas` is not set, or a group cannot be used.
        """
        names = check_groups("groups", groups)
        with self._lock:
            if resumes(self._minimum_version):
                # A context for each connection (1 ms, 24 KiB) has no session to resume.
                return self._make_server(insecure_skip_verify, names)
            pool = self._client_cas
            key = ("server", insecure_skip_verify, _generation(pool), names, False)
            context = self._contexts.get(key)
            if context is None:
                context = self._make_server(insecure_skip_verify, names)
                self._contexts[key] = context
            return context

    def client_context(
        self,
        *,
        insecure_skip_verify: bool = False,
        groups: Sequence[str] | None = None,
        verify_server_name: bool = True,
    ) -> ssl.SSLContext:
        """Return the context for connections that are dialed now. Do not change it.

        Args:
            insecure_skip_verify: do not verify the server.
            groups: as for `server_context`.
            verify_server_name: False: TLS verifies the chain and no name. The caller
                has to compare another name with the certificate.

        Raises: ConfigError, where a group cannot be used.
        """
        names = check_groups("groups", groups)
        named = self._verify_server_name and verify_server_name
        return self._client_context(ALPN_PROTOCOL, insecure_skip_verify, names, named)

    def https_context(self) -> ssl.SSLContext:
        """Return the context for connections to HTTPS servers, such as those of etcd.
        Do not change it.

        It has the certificate and the trust of connections to peers. It always verifies
        the name of the server. Ask for it anew for each connection, so that rotation
        takes effect.
        """
        return self._client_context("http/1.1", False, None, True)

    def _client_context(
        self,
        alpn: str,
        insecure_skip_verify: bool,
        groups: tuple[str, ...] | None,
        named: bool,
    ) -> ssl.SSLContext:
        with self._lock:
            pool = self._root_cas
            side = f"client {alpn}"
            state = _generation(pool)
            key = (side, insecure_skip_verify, state, groups, named)
            context = self._contexts.get(key)
            if context is None:
                context = make_client_context(
                    self._certificate,
                    root_cas=pool,
                    minimum_version=self._minimum_version,
                    insecure_skip_verify=insecure_skip_verify,
                    verify_server_name=named,
                    groups=groups,
                    alpn=alpn,
                )
                self._contexts[key] = context
            return context

    def _make_server(
        self, insecure_skip_verify: bool, groups: tuple[str, ...] | None
    ) -> ssl.SSLContext:
        if self._certificate is None:
            raise ConfigError(
                "this manager has no certificate, and an acceptor must show one",
                hint="give it one, or start the node with acceptors=()",
            )
        auth = self._client_auth
        if insecure_skip_verify:
            auth = ClientAuth.NO_CLIENT_CERT
        if auth.verifies and self._client_cas is None:
            raise ConfigError(
                f"client_auth is {self._client_auth.name} and client_cas is not set",
                hint="set client_cas to the pool that signs client certificates",
            )
        return make_server_context(
            self._certificate,
            verify_mode=_verify_mode(auth),
            client_cas=self._client_cas,
            minimum_version=self._minimum_version,
            accept_any=auth.asks and not auth.verifies,
            groups=groups,
            keep_chains=self._keeps_chains,
        )

    # --- trust -----------------------------------------------------------------

    def freeze(self) -> None:
        """Fix the trust: a node uses this manager from now on."""
        with self._lock:
            self._frozen = True
            for pool in (self._client_cas, self._root_cas):
                if pool is not None:
                    pool.freeze()

    def keep_chains(self) -> None:
        """Let verdicts on dialers have all certificates that they present.

        A node that judges its peers again needs them. They take up to 16 KiB while a
        handshake is under way.
        """
        with self._lock:
            if not self._keeps_chains:
                self._keeps_chains = True
                self._contexts = {}

    @property
    def trust_changed_at(self) -> float:
        """When trust was replaced last while nodes used it, by `time.monotonic`."""
        return self._trust_changed_at

    def watch_trust(self, callback: Callable[[CertManager], object]) -> None:
        """Call a function after each change of trust, in the thread that changes it.

        Args:
            callback: takes this manager; must not raise.
        """
        with self._lock:
            self._trust_watchers.append(callback)

    def unwatch_trust(self, callback: Callable[[CertManager], object]) -> None:
        """Take back `watch_trust`."""
        with self._lock:
            if callback in self._trust_watchers:
                self._trust_watchers.remove(callback)

    @property
    def frozen(self) -> bool:
        """Whether a node uses this manager."""
        return self._frozen

    @property
    def verifies_clients(self) -> bool:
        """Whether a client certificate that is presented is verified."""
        return self._client_auth.verifies

    @property
    def client_auth(self) -> ClientAuth:
        """How client certificates are treated."""
        return self._client_auth

    @property
    def client_cas(self) -> CertPool | None:
        """What client certificates are verified against."""
        return self._client_cas

    @property
    def root_cas(self) -> CertPool | None:
        """What servers are verified against; None: the system's authorities."""
        return self._root_cas

    @property
    def server_name(self) -> str | None:
        """The name that is sent as SNI and verified; None: the host that is dialed."""
        return self._server_name

    @property
    def verifies_server_name(self) -> bool:
        """Whether the host name of a server is verified, and not its chain alone."""
        return self._verify_server_name

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._certificate!r}>"


class CertAuthManager(CertManager):
    """A `CertManager` that also says whom to trust.

    Args:
        certificate: as for `CertManager`; None for a node that only dials and shows no
            certificate.
        client_cas: what client certificates are verified against.
        client_auth: how client certificates are treated.
        root_cas: what servers are verified against; None: the system's authorities.
        server_name: the name to send as SNI and to verify in servers' certificates;
            None: the host that is dialed.
        verify_server_name: False: do not check the host name of servers. Their chain
            and their node name are still checked. For certificates that name no host,
            such as those of SPIFFE.
        live_trust: `client_cas` and `root_cas` may be replaced while nodes use the
            manager.

    `client_cas`, `client_auth`, `root_cas` and `server_name` are properties. They are
    fixed once a node uses the manager: assigning them raises `SettingsFrozenError`.
    With `live_trust`, `client_cas` and `root_cas` can be assigned: the new pool
    verifies peers from the next handshake on, and cannot be changed itself. Links that
    are up stay. A pool that could verify nobody raises `ConfigError`, and the old pool
    stays in use.
    """

    _may_lack_certificate = True

    def __init__(
        self,
        certificate: Certificate | None,
        *,
        client_cas: CertPool | None = None,
        client_auth: ClientAuth = ClientAuth.NO_CLIENT_CERT,
        root_cas: CertPool | None = None,
        server_name: str | None = None,
        verify_server_name: bool = True,
        live_trust: bool = False,
        minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ) -> None:
        super().__init__(certificate, minimum_version=minimum_version)
        check_flag("verify_server_name", verify_server_name)
        self._verify_server_name = verify_server_name
        self._live_trust = bool(live_trust)
        self.client_cas = client_cas
        self.client_auth = client_auth
        self.root_cas = root_cas
        self.server_name = server_name

    @property
    def client_auth(self) -> ClientAuth:
        """How client certificates are treated."""
        return self._client_auth

    @client_auth.setter
    def client_auth(self, value: ClientAuth) -> None:
        if not isinstance(value, ClientAuth):
            raise ConfigError(f"client_auth is {value!r}, not a ClientAuth")
        reason = cannot_accept_any()
        if reason is not None and value.asks and not value.verifies:
            raise ConfigError(
                f"ClientAuth.{value.name} is not available: {reason}",
                hint="choose a mode that verifies, or an interpreter whose ssl module "
                "is linked with a shared OpenSSL",
            )
        with self._changing("client_auth"):
            self._client_auth = value

    @property
    def client_cas(self) -> CertPool | None:
        """What client certificates are verified against."""
        return self._client_cas

    @client_cas.setter
    def client_cas(self, value: CertPool | None) -> None:
        self._check_pool("client_cas", value)
        with self._changing("client_cas"):
            self._check_replacements(client_cas=value)
            self._client_cas = value

    @property
    def root_cas(self) -> CertPool | None:
        """What servers are verified against; None: the system's authorities."""
        return self._root_cas

    @root_cas.setter
    def root_cas(self, value: CertPool | None) -> None:
        self._check_pool("root_cas", value)
        with self._changing("root_cas"):
            self._check_replacements(root_cas=value)
            self._root_cas = value

    @property
    def live_trust(self) -> bool:
        """Whether `client_cas` and `root_cas` may be replaced while nodes run."""
        return self._live_trust

    def replace_trust(self, client_cas: CertPool, root_cas: CertPool) -> None:
        """Replace both pools at once: no handshake sees one old and one new pool.

        Raises:
            ConfigError: as when they are assigned. Both old pools stay in use.
        """
        self._check_pool("client_cas", client_cas)
        self._check_pool("root_cas", root_cas)
        with self._changing("client_cas", "root_cas"):
            self._check_replacements(client_cas=client_cas, root_cas=root_cas)
            self._client_cas, self._root_cas = client_cas, root_cas

    @property
    def server_name(self) -> str | None:
        """The name that is sent as SNI and verified; None: the host that is dialed."""
        return self._server_name

    @server_name.setter
    def server_name(self, value: str | None) -> None:
        if value is not None:
            value = verified_host(check_host(value, "server_name"))
        with self._changing("server_name"):
            self._server_name = value

    def watch(
        self,
        cert_file: str | os.PathLike[str],
        key_file: str | os.PathLike[str] | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        *,
        password: Password = None,
        interval: float = 1.0,
        on_update: OnUpdate | None = None,
    ) -> CertificateWatch:
        """Follow files as `CertManager.watch` does, and also authorities in `ca_file`.

        The content of `ca_file` replaces `client_cas` and `root_cas`, now and whenever
        it changes. If certificate and authorities change together, authorities are
        replaced first. Revocation lists of the old pools are kept.

        Args:
            ca_file: authorities, PEM; needs ``live_trust=True``.

        Raises:
            As `CertManager.watch`; and ConfigError: `live_trust` is false.
        """
        if ca_file is not None and not self._live_trust:
            raise ConfigError(
                "ca_file cannot be followed: trust is fixed once a node uses this "
                "manager",
                hint="make the manager with live_trust=True",
            )
        return CertificateWatch(
            self,
            cert_file,
            key_file,
            password=password,
            interval=interval,
            trust=None if ca_file is None else (self, ca_file),
            on_update=on_update,
        )

    @staticmethod
    def _check_pool(setting: str, value: object) -> None:
        if value is not None and not isinstance(value, CertPool):
            raise ConfigError(f"{setting} is a CertPool, not {type(value).__name__}")

    @contextmanager
    def _changing(self, *settings: str) -> Iterator[None]:
        """Allow a change of trust, or raise the reason why it cannot be made."""
        with self._lock:
            if self._frozen:
                _check_live(settings, live_trust=self._live_trust)
            try:
                yield
            except Exception:
                self._failed_rotations += self._frozen
                raise
            self._contexts = {}
            if self._frozen:
                self._rotations += 1
                self._trust_changed_at = time.monotonic()
                log.info(
                    "%s replaced",
                    " and ".join(settings),
                    extra=fields("trust_replaced", settings=", ".join(settings)),
                )
            watchers = tuple(self._trust_watchers)
        for callback in watchers:
            callback(self)

    def _check_replacements(self, **pools: CertPool | None) -> None:
        if not self._frozen:
            return
        for setting, pool in pools.items():
            _check_replacement(
                setting,
                pool,
                needed=setting == "client_cas" and self.verifies_clients,
                minimum_version=self._minimum_version,
            )
        for pool in pools.values():
            if pool is not None:
                pool.freeze()


def _check_live(settings: Iterable[str], *, live_trust: bool) -> None:
    """Raise `SettingsFrozenError` if a setting is fixed while nodes run."""
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


def _check_replacement(
    setting: str,
    pool: CertPool | None,
    *,
    needed: bool,
    minimum_version: ssl.TLSVersion,
) -> None:
    """Raise `ConfigError` unless a pool can be used from the next handshake on.

    Args:
        needed: whether peers are verified against this setting, so that it cannot be
            None.
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
    # Make a context now, so that a pool that OpenSSL refuses changes nothing.
    probe = make_client_context(
        None,
        root_cas=pool,
        minimum_version=minimum_version,
        insecure_skip_verify=False,
    )
    del probe
