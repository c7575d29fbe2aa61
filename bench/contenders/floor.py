"""The C program in `bench/floor`: how it is built, and driven as a client."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shlex
import shutil
import ssl
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import trust
from clients import SHARES, Clients
from entrant import Entrant

SOURCE = Path(__file__).parents[1] / "floor"
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra")


class NotBuilt(Exception):
    """There is no program, for this reason."""


@dataclass(frozen=True)
class Floor:
    """The program.

    Attributes:
        path: where it is.
        openssl: the version that it runs with.
    """

    path: Path
    openssl: str

    @property
    def note(self) -> str:
        """How its OpenSSL compares with Python's."""
        if self.openssl == ssl.OPENSSL_VERSION:
            return f"{self.openssl}, as Python has it"
        return f"{self.openssl}, but Python has {ssl.OPENSSL_VERSION}"


@cache
def build() -> Floor:
    """Compile it, unless that was done before, with OpenSSL as Python has it if it can.

    Raises:
        NotBuilt: no compiler, no headers, no Linux.
    """
    if sys.platform != "linux":
        raise NotBuilt("it needs epoll, that is Linux")
    command = compiler()
    found: Floor | None = None
    errors: list[str] = []
    for flags in library_flags():
        try:
            floor = compiled([*command, *FLAGS], flags)
        except NotBuilt as error:
            errors.append(str(error))
            continue
        if floor.openssl == ssl.OPENSSL_VERSION:
            return floor
        found = found or floor
    if found is None:
        raise NotBuilt(errors[0])
    return found


def compiler() -> list[str]:
    """The command that compiles C.

    Raises:
        NotBuilt: there is none.
    """
    found = os.environ.get("CC") or shutil.which("cc")
    if found is None:
        raise NotBuilt("there is no C compiler: install cc, or name one in CC")
    return shlex.split(found)


def library_flags() -> Iterator[list[str]]:
    """Ways to reach OpenSSL's headers and libraries, the likeliest first."""
    if shutil.which("pkg-config"):
        asked = subprocess.run(
            ["pkg-config", "--cflags", "--libs", "openssl"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode == 0:
            yield shlex.split(asked.stdout)
    # Beside the interpreter, as conda and builds with --with-openssl have it.
    folders = [Path(sysconfig.get_config_var("LIBDIR") or "/nowhere").parent]
    folders += [Path(sys.base_prefix), Path(sysconfig.get_config_var("OPENSSL") or "/")]
    for folder in folders:
        if (folder / "include/openssl/ssl.h").exists():
            lib = folder / "lib"
            yield [
                f"-I{folder}/include", f"-L{lib}", f"-Wl,-rpath,{lib}",
                "-lssl", "-lcrypto",
            ]  # fmt: skip
    yield ["-lssl", "-lcrypto"]


def compiled(command: list[str], flags: list[str]) -> Floor:
    """Compile into the folder of temporary files, under a name that says of what."""
    sources = sorted(SOURCE.glob("*.[ch]"))
    digest = hashlib.sha256(repr((command, flags)).encode())
    for path in sources:
        digest.update(path.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"fastnode-bench-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise NotBuilt(f"{folder} belongs to somebody else")
    path = folder / f"floor-{digest.hexdigest()[:16]}"
    if not path.exists():
        fresh = path.with_suffix(f".{os.getpid()}")
        code = [str(each) for each in sources if each.suffix == ".c"]
        made = subprocess.run(
            [*command, "-o", str(fresh), *code, *flags],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            lines = [line for line in made.stderr.splitlines() if "error" in line]
            reason = lines[0] if lines else made.stderr.strip()
            raise NotBuilt(f"{command[0]} does not compile it: {reason}")
        fresh.rename(path)
    version = subprocess.run(
        [str(path), "version"], capture_output=True, text=True, check=False
    )
    if version.returncode:
        raise NotBuilt(f"it does not run: {version.stderr.strip()}")
    return Floor(path, version.stdout.strip())


@dataclass(frozen=True)
class FloorEntrant(Entrant):
    """The program in one of its variants."""

    variant: str = "default"

    def missing(self) -> str | None:
        try:
            build()
        except NotBuilt as reason:
            return f"the C program cannot be built: {reason}"
        return None

    def server_command(self, folder: Path) -> list[str]:
        return [str(build().path), "server", str(folder), self.variant]

    def clients(self, folder: Path) -> Clients:
        return FloorClients(folder, self.variant)

    def new_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()


class FloorClients(Clients):
    """The program as a client: it does what a line says, and answers with one."""

    def __init__(self, folder: Path, variant: str) -> None:
        self._command = [
            str(build().path), "client", str(folder), variant, trust.CLIENT
        ]  # fmt: skip
        self._process: subprocess.Popen[str] | None = None

    def _start(self, port: int) -> None:
        if self._process is None:
            self._process = subprocess.Popen(
                [*self._command, str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )

    def _ask(self, *words: object) -> list[float]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(" ".join(map(str, words)) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline().split()
        if answer[:1] != ["ok"]:
            raise SystemExit("the C client ended; its error is above")
        return [float(word) for word in answer[1:]]

    async def open(self, port: int, links: int, first: int = 0) -> None:
        self._start(port)
        self._ask("open", links)

    async def send(self, size: int, count: int) -> None:
        self._ask("send", size, count)

    async def call(
        self, size: int, count: int, outstanding: int, *, metadata: bool = False
    ) -> float:
        if metadata:
            raise SystemExit("the C program has no metadata")
        return self._ask("call", size, count, outstanding)[0]

    async def highest_rate(self, size: int, count: int) -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._ask("call", size, count, 64)
        return count / (loop.time() - began)

    async def load(self, size: int, count: int, rate: float) -> dict[str, float]:
        return dict(zip(SHARES, self._ask("load", size, count, rate), strict=True))

    async def handshakes(self, port: int, at_once: int, count: int) -> None:
        self._start(port)
        self._ask("handshakes", at_once, count)

    async def cpu_seconds(self) -> float:
        return self._ask("cpu")[0] if self._process else 0.0

    async def close(self) -> None:
        if self._process is not None:
            self._process.communicate(timeout=30)
