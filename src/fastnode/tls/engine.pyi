import ssl

from fastnode.openssl.verdict import Verdict

TLS_ERRORS: tuple[type[ssl.SSLError]]

class TlsEngine:
    @property
    def certificate(self) -> bytes | None: ...
    @property
    def version(self) -> str | None: ...
    @property
    def cipher(self) -> str | None: ...
    @property
    def alpn(self) -> str | None: ...
    @property
    def verdict(self) -> Verdict | None: ...
