"""Which module may import which: ranks, and no circles. `cimport` counts as `import`.

Ranks. A file imports lower ranks and its own package. Packages of one rank never import
each other. Imports under `if TYPE_CHECKING:` do not count here: options, for example,
name the types of hooks that belong to higher ranks.

Circles. No module imports itself through others. Late imports, inside functions, count.
Imports under `if TYPE_CHECKING:` count too: they cannot fail, but a reader follows them
like the others, and modules in a circle cannot be understood one at a time. A type that
closes a circle is in the wrong module, or its user needs a Protocol. Stubs (`.pyi`) do
not count: they repeat their `.pyx`. Nor does `fastnode/__init__.py`, which lists the
public names and loads them when they are asked for.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "fastnode"

#: The modules of rank 0 count as one package: `names` raises `errors`.
RANKS = {
    "backoff": 0,
    "errors": 0,
    "groups": 0,
    "limits": 0,
    "log_limit": 0,
    "loggers": 0,
    "names": 0,
    "peer": 0,
    "options": 1,
    "openssl": 1,
    "buffers": 2,
    "certs": 2,
    "routing": 2,
    "wire": 3,
    "tls": 3,
    "sending": 4,
    "dispatch": 5,
    "link": 6,
    "discovery": 6,
    "service": 7,
    "node": 8,
    "blocking": 9,
    "testing": 9,
    "workers": 9,
    "cli": 10,
    "__main__": 10,
}
#: What is above it may import the public names, as users do.
TOP = RANKS["node"]
SAME = {name: "base" for name, rank in RANKS.items() if rank == 0} | {"__main__": "cli"}

#: Modules from outside that only these packages may import.
ONLY_IN = {
    "ssl": {"certs", "openssl", "tls"},
    # `peer` only pickles certificates.
    "cryptography": {"certs", "peer", "tls"},
    "aiohttp": {"discovery"},
    "dns": {"discovery"},
    "pytest": {"testing"},
    "pytest_asyncio": {"testing"},
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
    """Return logical lines, without the blocks that only a type checker reads."""
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


# --- circles
# ---------------------------------------------------------------------------


def module_of(path: Path) -> str:
    """The full name of the module in a file; a .pyx and its .pxd are one module."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _named_modules(code: str) -> list[str]:
    """What an import statement may name, as full names: modules, or names in them."""
    if match := _FROM.match(code):
        module, names = match.groups()
        parts = [part.split() for part in names.strip("() ").split(",")]
        return [f"{module}.{part[0]}" for part in parts if part]
    if match := _IMPORT.match(code):
        return [part.split()[0] for part in match[1].split(",")]
    return []


def import_graph(sources: dict[str, str]) -> dict[str, dict[str, str]]:
    """For each module the modules that it imports, each with the statement that does.

    Args:
        sources: source text by the full names of modules.
    """
    graph: dict[str, dict[str, str]] = {module: {} for module in sources}
    for module, text in sources.items():
        for line in map(str.strip, _logical_lines(text)):
            for named in _named_modules(line):
                parent = named.rpartition(".")[0]
                found = named if named in sources else parent
                if found in sources and found != module:
                    graph[module].setdefault(found, line)
    return graph


def find_circle(graph: dict[str, dict[str, str]]) -> list[str]:
    """Return the modules of a shortest circle, each imports the next; or none."""
    circles: list[list[str]] = []
    for start in sorted(graph):
        came_from: dict[str, str] = {}
        reached = [start]
        for module in reached:  # grows: breadth first
            for imported in graph[module]:
                if imported not in came_from:
                    came_from[imported] = module
                    reached.append(imported)
        if start in came_from:
            circle = [came_from[start]]
            while circle[-1] != start:
                circle.append(came_from[circle[-1]])
            circles.append(circle[::-1])
    return min(circles, key=len, default=[])


def described(circle: list[str], graph: dict[str, dict[str, str]]) -> str:
    """Name each module of a circle, with the statement that imports the next one."""
    pairs = zip(circle, [*circle[1:], *circle[:1]], strict=True)
    return "".join(f"\n  {one}: {graph[one][next_]}" for one, next_ in pairs)


def test_no_import_circles() -> None:
    sources: dict[str, str] = {}
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        sources[module_of(path)] = f"{sources.get(module_of(path), '')}\n{text}"
    graph = import_graph(sources)
    assert sum(map(len, graph.values())) > 100
    circle = find_circle(graph)
    assert not circle, f"modules import each other:{described(circle, graph)}"


@pytest.mark.parametrize(
    ("sources", "circle"),
    [
        ({"p.a": "import p.b", "p.b": "from p.a import x"}, ["p.a", "p.b"]),
        ({"p.a": "from p import b", "p.b": "cimport p.a"}, ["p.a", "p.b"]),
        ({"p.a": "import p.b", "p.b": "def f():\n    import p.a"}, ["p.a", "p.b"]),
        (
            {
                "p.a": "from p.b import (\n    x,\n)",
                "p.b": "from p.c cimport y",
                "p.c": "if TYPE_CHECKING:\n    from p.a import x",
            },
            ["p.a", "p.b", "p.c"],
        ),
        ({"p": "from p.a import x", "p.a": "from p import y"}, ["p", "p.a"]),
        (
            {
                "p.a": "import p.b\nimport p.c",
                "p.b": "import p.d",
                "p.c": "import p.d",
                "p.d": '"""import p.a"""  # import p.a',
            },
            [],
        ),
        ({"p.a": "from p.a import x", "p.b": "from p import a"}, []),
    ],
)
def test_circles_are_seen(sources: dict[str, str], circle: list[str]) -> None:
    assert find_circle(import_graph(sources)) == circle


# --- ranks
# -----------------------------------------------------------------------------


def test_there_are_sources() -> None:
    assert len(SOURCES) > 20


def test_every_package_has_a_rank() -> None:
    unknown = {unit_of(path) for path in SOURCES} - set(RANKS)
    assert not unknown, f"give these a rank here and in docs/architecture.md: {unknown}"


@pytest.mark.parametrize(
    "path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix()
)
def test_imports(path: Path) -> None:
    wrong = violations(unit_of(path), path.read_text(encoding="utf-8"))
    assert not wrong, wrong


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("buffers", "from fastnode.sending.outbox cimport Outbox"),
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
        ("options", "if TYPE_CHECKING:\n    from fastnode.link.link import Link\n"),
        ("options", "from fastnode.peer import Peer"),
        ("names", "from fastnode.errors import ConfigError"),
        ("link", "from fastnode.sending.outbox cimport Outbox"),
        ("link", 'def f():\n    """Text\n    from fastnode.cli import x\n    """'),
        ("node", "from fastnode import limits  # from fastnode.cli import x"),
        ("__main__", "from fastnode.cli.main import cli"),
        ("tls", "import ssl"),
        ("cli", "from fastnode import (\n    Node,\n    Route,\n)"),
    ],
)
def test_what_is_allowed(unit: str, text: str) -> None:
    assert not violations(unit, text)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_interface_is_an_abstract_base(path: Path) -> None:
    """Interfaces are protocols, or classes whose methods do nothing until filled."""
    assert "NotImplementedError" not in path.read_text()
