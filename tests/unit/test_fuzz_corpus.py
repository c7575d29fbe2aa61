"""The corpus of tests/fuzz through its targets: what a fuzzer found stays mended."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.targets import TARGETS

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"


@pytest.mark.parametrize("target", TARGETS)
def test_guarantee_10_the_corpus_of_the_fuzzer(target: str) -> None:
    inputs = sorted((CORPUS / target).iterdir())
    assert inputs
    for path in inputs:
        data = path.read_bytes()
        try:
            TARGETS[target](data)
            if len(data) > 1:
                # The byte that says how the rest is cut: one by one.
                TARGETS[target](data[:1] + b"\1" + data[2:])
        except BaseException as error:
            error.add_note(f"the input is {path}")
            raise
