"""docs/discovery.md: its numbers are those of the code, and its examples run."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fastnode import limits
from fastnode.discovery import etcd, kit, local

PAGE = (Path(__file__).parents[3] / "docs/discovery.md").read_text()
WORDS = " ".join(PAGE.split())


@pytest.mark.parametrize(
    "said",
    [
        f"that grows from {limits.DISCOVERY_FIRST_PAUSE_SECONDS:g} s",
        f"s to {limits.DISCOVERY_MOST_PAUSE_SECONDS:g} s",
        f"the directory is read every {local.LOOK_SECONDS:g} s",
        f"for {limits.DNS_LEAST_TTL_SECONDS:g} s at least",
        f"and {limits.DNS_MOST_TTL_SECONDS:g} s at most (`min_ttl`",
        f"is used for {limits.DNS_MOST_EMPTY_TTL_SECONDS:g} s at most",
        f"a lease of `ttl` seconds ({limits.ETCD_TTL_SECONDS:g} s)",
        f"is silent for {etcd.SILENCE_SECONDS:g} s",
        f"`timeout` ({limits.ETCD_TIMEOUT_SECONDS:g} s) goes to the next one",
    ],
)
def test_numbers(said: str) -> None:
    assert said in WORDS


def example(name: str) -> str:
    found = re.search(rf"<!-- code: {name} -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found[1]


def subject_class() -> Callable[[Path], kit.Subject]:
    """The class of the second example, which uses that of the first."""
    names = (
        "import asyncio, json, pytest\n"
        "from collections.abc import Sequence\n"
        "from pathlib import Path\n"
        "from fastnode.discovery import Publish, Target, Watch, kit\n"
    )
    module: dict[str, Any] = {}
    exec(names + example("own") + example("test"), module)
    made: Callable[[Path], kit.Subject] = module["FileSubject"]
    check: Callable[..., Awaitable[None]] = module["test_file_discovery"]
    assert check is not None
    return made


@pytest.mark.parametrize("check", kit.CHECKS)
async def test_your_own_discovery_passes_the_kit(
    check: kit.Check, tmp_path: Path
) -> None:
    await check(subject_class()(tmp_path / "services.json"))
