"""The examples run to their end and print what they promise."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import fastnode
from fastnode.testing import pytest_plugin

README = (Path(__file__).parents[2] / "README.md").read_text()
#: The package under test, wherever this process has it from.
PACKAGE = str(Path(fastnode.__file__).parents[1])
EXAMPLES = Path(__file__).parents[2] / "examples"
#: Generous: an example takes a second.
TIMEOUT_SECONDS = 50.0
SLOW = "blocked the loop for"

PRINTED = {
    "echo_pair.py": (
        "link to echo@127.0.0.1 at 127.0.0.1:",
        "(verified), TLSv1.3",
        "10000 messages came back, in order: True",
    ),
    "request_reply.py": (
        "apple: 3",
        "together: 3 4",
        "melon: KeyError: b'melon'",
        "refund: shop@127.0.0.1 has no endpoint 'refund'",
        "delivery: no reply from 'delivery' within 0.2 s",
        "shop: customer@127.0.0.1 waits no more, delivery cancelled",
    ),
    "deadlines.py": (
        "[8f1c] stock: at most 2 s for b'apples': 1.",
        "[8f1c] shop: from shelf 7",
        "customer: taken",
        "[8f1c] shop: the stock says out_of_stock",
        "customer: out_of_stock only 3 left b'3'",
        "customer: deadline_exceeded begun: maybe",
    ),
    "rotate_certs.py": (
        "taken from tls.crt: True",
        "the new link sees the new one: True",
        "no call was lost: hello",
        "renewed by the server: 1",
        "refused: the new certificate expired",
        "the good one is still in use: True",
        "refused: client_auth cannot be changed",
    ),
    "blocking_client.py": (
        "apple: 3",
        "from 4 threads: 3 4 3 4",
        "melon: KeyError: b'melon'",
        "the shop has noted: ['web is closing']",
    ),
    "run_node.py": (
        "customer: there are 6 apples",
        "customer: the stock is ready, ok: True",
        "customer: there are 5 pears\nstock: the database is closed",
        "exit code of the service: 0",
    ),
    "workers.py": (
        "customers of each worker: [4, 4]",
        "after a restart: [4, 4]",
        "by other processes: True",
    ),
    "service/run.py": (
        "240 orders, by 3 instances",
        "the same customer found 1 instance",
        "3 of 3 instances have reloaded",
        "a new instance took an order",
        " orders meanwhile, lost: 0\ngateway is leaving\nbilling ",
        "exit codes: [0, 0, 0, 0, 0, 0]",
    ),
    "custom_resolver.py": (
        "directory: where is red@127.0.0.1?",
        "by the directory: red for asker@127.0.0.1",
        "by a route: blue for asker@127.0.0.1",
        "not at all: the resolver knows no address of green@127.0.0.1",
    ),
}


FIRST = "first.py"
#: A service with its own tests.
SERVICE = EXAMPLES / "testing_a_service"
#: Programs that another one starts, and what they import.
STARTED = {
    f"service/{name}.py"
    for name in ("billing", "certificates", "client", "gateway", "options")
}
#: Peers dial an instance that stops once more, if they have not heard from the
#: discovery yet. They log that at WARNING.
STOPPED = "service billing: no link with 127.0.0.1:"


def test_every_example_is_tested() -> None:
    found = {
        path.relative_to(EXAMPLES).as_posix()
        for path in EXAMPLES.rglob("*.py")
        if path.parent != SERVICE
    }
    assert found == {*PRINTED, *STARTED, FIRST}


def block(text: str, language: str) -> str:
    """The first fenced block of a language."""
    return text.split(f"```{language}\n", 1)[1].split("```", 1)[0]


def test_the_readme_s_program_is_the_example() -> None:
    program = (EXAMPLES / FIRST).read_text().split('"""\n', 1)[1]
    assert block(README, "python").strip() == program.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.0/8 is Linux's")
def test_the_readme_s_program_runs_by_the_commands_beside_it(tmp_path: Path) -> None:
    # The port is the default: an address of its own makes sure that it is free.
    host = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.7"
    (tmp_path / "examples").mkdir()
    program = (EXAMPLES / FIRST).read_text().replace("127.0.0.1", host)
    (tmp_path / "examples" / FIRST).write_text(program)
    commands = block(README.split("<!-- command: first -->", 1)[1], "sh")
    said = ""
    for line in commands.strip().splitlines():
        words = line.replace("127.0.0.1", host).split()
        python = [sys.executable, "-W", "error"]
        if words[0] == ".venv/bin/fastnode":
            python += ["-m", "fastnode"]
        else:
            assert words[0] == ".venv/bin/python"
        done = subprocess.run(
            [*python, *words[1:]],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": PACKAGE},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        told = [each for each in done.stderr.splitlines() if SLOW not in each]
        assert (done.returncode, told) == (0, []), line
        said = done.stdout
    assert said == f"b'order 7, invoiced to orders@{host}'\n"


@pytest.mark.timeout(120)
def test_examples(tmp_path: Path) -> None:
    """At the same time, because each mostly waits."""
    with ThreadPoolExecutor(len(PRINTED)) as pool:
        runs = [pool.submit(run_example, name, tmp_path / name) for name in PRINTED]
        for run in runs:
            run.result()


def run_example(name: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": PACKAGE},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    # A handler waits for a processor where the machine is busy, and is told of.
    told = [
        line
        for line in done.stderr.splitlines()
        if SLOW not in line and not line.startswith(STOPPED)
    ]
    assert (done.returncode, told) == (0, []), name
    for text in PRINTED[name]:
        assert text in done.stdout
    # Nothing is left on the disk, keys least of all.
    assert list(folder.iterdir()) == []
    assert len(done.stdout.splitlines()) < 20


def test_the_tests_of_the_example_s_service(tmp_path: Path) -> None:
    folder = shutil.copytree(SERVICE, tmp_path / "service")
    options = ["-q", "-p", "no:cacheprovider", "-p", pytest_plugin.__name__]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-B", "-m", "pytest", *options],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": PACKAGE,
            # The plugins that the example needs, and no other.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_PLUGINS": "pytest_asyncio.plugin",
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = (SERVICE / "test_service.py").read_text().count("async def test_")
    assert f"{written} passed" in done.stdout
