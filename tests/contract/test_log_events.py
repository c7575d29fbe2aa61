"""Every log call has an event, and docs/logging.md lists each event as it is logged."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from helpers.documents import section, table

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "fastnode"
PAGE = (ROOT / "docs/logging.md").read_text()
#: What makes the fields of a record: `fastnode.loggers.fields`, and methods that call
#: it with what they know.
MAKERS: Final = {"fields", "_fields", "log_fields"}
#: Methods of a logger, and the level; "" where the first argument says it.
METHODS: Final = {
    "debug": "DEBUG",
    "info": "INFO",
    "warning": "WARNING",
    "error": "ERROR",
    "exception": "ERROR",
    "critical": "CRITICAL",
    "log": "",
}
#: The field that an argument of `fields` always gives.
GIVES: Final = {"error": "reason", "traceback": "reason", "certificate": "serial"}
LOG_CALL = re.compile(
    rf"(?<![\w.])(?:\w*log\.(?:{'|'.join(METHODS)})|[\w.]*limit\w*\.say)\("
)


@dataclass
class Event:
    """What the calls that log one event have in common."""

    loggers: set[str] = field(default_factory=set)
    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)


def log_calls(text: str) -> Iterator[ast.Call]:
    """The log calls of a module. Cython is no Python, but its log calls are."""
    for found in LOG_CALL.finditer(text):
        tree = None
        end = found.end()
        while not isinstance(tree, ast.Expression):
            end = text.index(")", end) + 1
            try:
                tree = ast.parse(text[found.start() : end], mode="eval")
            except SyntaxError:
                continue
        assert isinstance(tree.body, ast.Call)
        yield tree.body


def constants(tree: ast.expr) -> set[str]:
    """The texts that an expression may be: a constant, or one of two."""
    if isinstance(tree, ast.IfExp):
        return constants(tree.body) | constants(tree.orelse)
    assert isinstance(tree, ast.Constant), ast.unparse(tree)
    assert isinstance(tree.value, str)
    return {tree.value}


def levels(call: ast.Call) -> set[str]:
    """The levels that a call may have, as far as the source says it."""
    assert isinstance(call.func, ast.Attribute)
    level = METHODS.get(call.func.attr, "")
    if level:
        return {level}
    first = ast.unparse(call.args[0])
    return set(re.findall(r"logging\.(\w+)", first))


def events(call: ast.Call) -> tuple[set[str], set[str]]:
    """The events that a call logs, and the fields that it gives.

    Raises:
        AssertionError: it has no event.
    """
    given = {each.arg: each.value for each in call.keywords if each.arg}
    if isinstance(call.func, ast.Attribute) and call.func.attr == "say":
        assert "event" in given, ast.unparse(call)
        names = constants(given.pop("event"))
    else:
        maker = given.get("extra")
        assert isinstance(maker, ast.Call), ast.unparse(call)
        assert ast.unparse(maker.func).rpartition(".")[2] in MAKERS
        names = constants(maker.args[0])
        given = {each.arg: each.value for each in maker.keywords if each.arg}
    return names, {GIVES.get(name, name) for name in given}


def all_calls() -> Iterator[tuple[Path, str, ast.Call]]:
    """Return all log calls of the source, each with its file and its logger."""
    for path in sorted(SOURCE.rglob("*.py*")):
        if path.suffix not in (".py", ".pyx") or path.name == "log_limit.py":
            continue
        text = path.read_text(encoding="utf-8")
        calls = list(log_calls(text))
        if not calls:
            continue
        # A module without a logger uses that of its package.
        named = set(re.findall(r'getLogger\("fastnode\.(\w+)"\)', text))
        (logger,) = named or {path.parent.name}
        for call in calls:
            yield path, logger, call


@cache
def logged() -> dict[str, Event]:
    """What the source logs, by event."""
    found: dict[str, Event] = defaultdict(Event)
    for _, logger, call in all_calls():
        names, fields = events(call)
        for name in names:
            found[name].loggers.add(logger)
            found[name].levels |= levels(call)
            found[name].fields |= fields
    return dict(found)


def documented() -> dict[str, Event]:
    """What the table of events says."""
    found = {}
    for name, loggers, said, fields, _ in table(section(PAGE, "Events"), "event"):
        found[name.strip("`")] = Event(
            set(loggers.split(", ")),
            set(said.split(", ")),
            set(re.findall(r"`(\w+)`", fields)),
        )
    return found


def test_every_log_call_has_an_event() -> None:
    without = []
    for path, _, call in all_calls():
        try:
            events(call)
        except AssertionError:
            without.append(f"{path.name}: {ast.unparse(call)}")
    hint = 'give it extra=fields("event", ...), see docs/architecture.md'
    assert not without, "\n".join([hint, *without])


def test_all_events_are_documented() -> None:
    assert sorted(documented()) == sorted(logged())


def test_events_are_in_order() -> None:
    rows = [row[0] for row in table(section(PAGE, "Events"), "event")]
    assert rows == sorted(rows)


@pytest.mark.parametrize("name", sorted(documented()))
def test_an_event_is_as_documented(name: str) -> None:
    source, said = logged().get(name, Event()), documented()[name]
    assert source.loggers == said.loggers
    assert source.levels <= said.levels
    assert source.fields <= said.fields


def test_every_logger_of_the_table_has_an_event() -> None:
    loggers = {row[0].strip("`") for row in table(PAGE, "logger")}
    used = {logger for event in logged().values() for logger in event.loggers}
    assert {f"fastnode.{logger}" for logger in used} == loggers


def test_no_log_call_is_overlooked() -> None:
    """Each use of a method of a logger is one of those that `log_calls` finds."""
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "getLogger(" not in text or "cli" in path.parts:
            continue
        calls = {
            ast.unparse(node)
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in METHODS
            and "log" in ast.unparse(node.func.value)
        }
        found = {ast.unparse(call) for call in log_calls(text)}
        assert calls <= found, path
