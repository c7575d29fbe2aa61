"""Who may import whom, for `import` and `cimport` alike.

A file imports lower ranks and its own package. Packages of one rank never see each
other. Imports under `if TYPE_CHECKING:` are of types only and do not count.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "fastnode"

#: The modules of rank 0 count as one package: `names` raises `errors`.
RANKS = {
    "errors": 0,
    "groups": 0,
    "limits": 0,
    "log_limit": 0,
    "loggers": 0,
    "names": 0,
    "options": 1,
    "openssl": 1,
    "buffers": 2,
    "certs": 2,
    "routing": 2,
    "wire": 3,
    "tls": 3,
    "link": 4,
    "node": 5,
    "testing": 6,
    "workers": 6,
    "cli": 7,
    "__main__": 7,
}
#: What is above it may import the public names, as users do.
TOP = RANKS["node"]
SAME = {name: "base" for name, rank in RANKS.items() if rank == 0} | {"__main__": "cli"}

#: Modules from outside that only these packages may import.
ONLY_IN = {
    "ssl": {"certs", "openssl", "tls"},
    "cryptography": {"certs", "tls"},
}
#: Memory and bytes only: no socket, no loop, no clock.
SANS_IO = {"buffers", "wire", "tls"}
IO_MODULES = {"asyncio", "select", "selectors", "socket", "time", "uvloop"}

SOURCES = sorted(
    path
    for path in PACKAGE.rglob("*")
    if path.suffix in (".py", ".pyx", ".pxd") and path != PACKAGE / "__init__.py"
)

_STRING = re.compile(r'"""(?:\\.|[^\\])*?"""|\'\'\'(?:\\.|[^\\])*?\'\'\'', re.DOTALL)
_FROM = re.compile(r"from\s+([.\w]+)\s+c?import\s+(.+)")
_IMPORT = re.compile(r"c?import\s+(.+)")


def _logical_lines(text: str) -> list[str]:
    """Lines without docstrings and comments; brackets and backslashes joined."""
    text = _STRING.sub("''", text)
    lines: list[str] = []
    pending = ""
    for line in text.splitlines():
        code = line.split("#", 1)[0].rstrip()
        pending = f"{pending} {code.strip()}" if pending else code
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        is_import = re.match(r"\s*(from|import|cimport)\b", pending)
        if is_import and pending.count("(") > pending.count(")"):
            continue
        lines.append(pending)
        pending = ""
    return lines


def _lines_that_run(text: str) -> list[str]:
    """Logical lines, without the blocks that only a type checker reads."""
    lines: list[str] = []
    skipped: int | None = None  # indentation of the TYPE_CHECKING block we are in
    for line in filter(str.strip, _logical_lines(text)):
        indent = len(line) - len(line.lstrip())
        if skipped is not None and indent > skipped:
            continue
        code = line.strip()
        checking = re.match(r"if (typing\.)?TYPE_CHECKING:", code)
        skipped = indent if checking else None
        if not checking:
            lines.append(code)
    return lines


def imported_modules(text: str) -> set[str]:
    """The modules that the source imports when it runs, by their full names."""
    found: set[str] = set()
    for code in _lines_that_run(text):
        if match := _FROM.match(code):
            module, names = match.groups()
            if module == "fastnode":  # a module, or a public name of the package
                parts = [part.split() for part in names.strip("() ").split(",")]
                inner = {part[0] for part in parts if part}
                found.update(f"fastnode.{name}" for name in inner & RANKS.keys())
                found.update({"fastnode"} if inner - RANKS.keys() else ())
            else:
                found.add(module)
        elif match := _IMPORT.match(code):
            found.update(part.split()[0] for part in match[1].split(","))
    return found


def _objection(unit: str, module: str) -> str | None:
    """Why a file of the package `unit` may not import a module, or None."""
    top, _, rest = module.partition(".")
    if not top:
        return "relative"
    if top in ONLY_IN and unit not in ONLY_IN[top]:
        return f"only in {sorted(ONLY_IN[top])}"
    if top in IO_MODULES and unit in SANS_IO:
        return f"{unit} is sans-IO"
    return _objection_inside(unit, rest) if top == "fastnode" else None


def _objection_inside(unit: str, rest: str) -> str | None:
    if not rest:
        wrong = RANKS[unit] <= TOP
        return "the public names are for what stands on them" if wrong else None
    other = rest.partition(".")[0]
    if other not in RANKS:
        return "not a package with a rank"
    if SAME.get(other, other) == SAME.get(unit, unit) or RANKS[other] < RANKS[unit]:
        return None
    return f"rank {RANKS[other]}, from {unit} of rank {RANKS[unit]}"


def violations(unit: str, text: str) -> list[str]:
    """What a file of the package `unit` imports and may not."""
    objections = {m: _objection(unit, m) for m in sorted(imported_modules(text))}
    return [f"{module}: {why}" for module, why in objections.items() if why]


def unit_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].partition(".")[0]


def test_there_are_sources() -> None:
    assert len(SOURCES) > 20


def test_every_package_has_a_rank() -> None:
    unknown = {unit_of(path) for path in SOURCES} - set(RANKS)
    assert not unknown, f"give these a rank here and in CONTRIBUTING.md: {unknown}"


@pytest.mark.parametrize(
    "path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_imports(path: Path) -> None:
    wrong = violations(unit_of(path), path.read_text(encoding="utf-8"))
    assert not wrong, wrong


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("buffers", "from fastnode.link.outbox cimport Outbox"),
        ("buffers", "cimport fastnode.wire.frame"),
        ("wire", "from fastnode.tls.engine cimport (\n    TlsEngine,\n)"),
        ("names", "import os, fastnode.options"),
        ("certs", "def f():\n    from fastnode.routing import Route"),
        ("options", "from fastnode import certs"),
        ("node", "from fastnode import Node"),
        ("cli", "from fastnode.extras import Node"),
        ("link", "import ssl"),
        ("node", "from cryptography import x509"),
        ("wire", "from time import monotonic"),
        ("link", "from .outbox import Outbox"),
        ("options", "if TYPE_CHECKING:\n    import a\nfrom fastnode.link import Link"),
    ],
)
def test_violations_are_seen(unit: str, text: str) -> None:
    assert violations(unit, text)


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("options", "if TYPE_CHECKING:\n    from fastnode.link.peer import Peer\n"),
        ("names", "from fastnode.errors import ConfigError"),
        ("link", "from fastnode.link.outbox cimport Outbox"),
        ("link", 'def f():\n    """Text\n    from fastnode.cli import x\n    """'),
        ("node", "from fastnode import limits  # from fastnode.cli import x"),
        ("__main__", "from fastnode.cli.main import cli"),
        ("tls", "import ssl"),
        ("cli", "from fastnode import (\n    Node,\n    Route,\n)"),
    ],
)
def test_what_is_allowed(unit: str, text: str) -> None:
    assert not violations(unit, text)
