"""docs/command.md says of each command what its `--help` says."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fastnode.cli.exit_code import EXIT_CODES
from fastnode.cli.main import cli
from helpers.command import COMMANDS
from helpers.documents import section, table

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/command.md").read_text()
NAMES = [name for name in COMMANDS if name]
README = (ROOT / "README.md").read_text()


def found(name: str) -> click.Command:
    """A command by its name, such as "ca init"."""
    command: click.Command = cli
    for word in name.split():
        assert isinstance(command, click.Group)
        command = command.commands[word]
    return command


def help_of(name: str) -> str:
    return CliRunner().invoke(cli, [*name.split(), "--help"]).output


def options(name: str) -> list[click.Option]:
    params = found(name).params
    return [param for param in params if isinstance(param, click.Option)]


def shown(option: click.Option) -> str:
    """An option and its value, as `--help` writes them."""
    if option.is_flag:
        return option.opts[0]
    context = click.Context(cli)
    return f"{option.opts[0]} {option.make_metavar(context)}"


@pytest.mark.parametrize("name", NAMES)
def test_options_of_a_command(name: str) -> None:
    text = section(PAGE, f"fastnode {name}")
    if isinstance(found(name), click.Group):
        assert "| option |" not in text
        assert set(found(name).commands) <= set(re.findall(r"\w+", text))  # type: ignore[attr-defined]
        return
    rows = {row[0].strip("`"): row for row in table(text, "option")}
    assert list(rows) == [shown(option) for option in options(name)]
    for option in options(name):
        default = rows[shown(option)][2]
        if isinstance(option.default, int | float) and not option.is_flag:
            assert default == f"`{option.default}`"


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_command(name: str) -> None:
    """The first lines of its section are the example of `--help`."""
    example = help_of(name).partition("Example:\n")[2].partition("\n\n")[0]
    assert example
    first = re.search(r"```sh\n(.*?)```", section(PAGE, f"fastnode {name}"), re.DOTALL)
    assert first
    joined = [
        " ".join(text.replace("\\\n", " ").split()) for text in (example, first[1])
    ]
    assert joined[0] == joined[1]


@pytest.mark.parametrize("name", NAMES)
def test_help_is_in_sentences(name: str) -> None:
    command = found(name)
    text = inspect.cleandoc(command.help or "").partition("\b")[0].strip()
    for paragraph in text.split("\n\n"):
        assert paragraph[0].isupper() or paragraph[0] == "'"
        assert paragraph.endswith("."), paragraph
    for option in options(name):
        assert option.help, option.opts
        sentence = re.sub(r"  \[default: .*\]$", "", option.help)
        assert re.fullmatch(r"[A-Z0-9].*\.", sentence), option.help


def test_exit_codes() -> None:
    rows = {int(row[0]): row[1] for row in table(PAGE, "code")}
    assert rows == EXIT_CODES
    listed = help_of("").partition("Exit codes:\n")[2].partition("\n\n")[0]
    told = [line.split(maxsplit=1) for line in listed.splitlines()]
    assert {int(code): meaning for code, meaning in told} == EXIT_CODES


def command_lines(text: str) -> Iterator[list[str]]:
    """Words of each call of the command in blocks of shell."""
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.partition("#")[0].split("|"):
                words = shlex.split(part) if "$(" not in part else []
                if words and words[0].rpartition("/")[2] == "fastnode":
                    yield words[1:]


@pytest.mark.parametrize("page", ["docs/command.md", "README.md", "docs/tls.md"])
def test_command_lines_can_be_parsed(page: str) -> None:
    for words in command_lines((ROOT / page).read_text()):
        command: click.Command = cli
        rest = words
        while isinstance(command, click.Group):
            command = command.commands[rest[0]]
            rest = rest[1:]
        if "-" not in rest:
            command.make_context("fastnode", rest)


def test_command_lines_are_found() -> None:
    lines = list(command_lines(PAGE))
    assert {words[0] for words in lines} == set(cli.commands)
    assert list(command_lines("```sh\na | .venv/bin/fastnode x 'y z' # c\n```")) == [
        ["x", "y z"]
    ]


def test_the_readme_leads_here() -> None:
    assert "(docs/command.md)" in README
