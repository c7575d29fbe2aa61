"""Fuzz one target: ``python tests/fuzz/run.py TARGET [CORPUS...] [libFuzzer options]``.

See README.md beside this file.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

# Not a dependency of the tests: it is there only where somebody fuzzes.
atheris: Any = importlib.import_module("atheris")

with atheris.instrument_imports(include=["fastnode"]):
    from fuzz.targets import TARGETS


def main() -> None:
    """Run the target that the command line names."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        raise SystemExit(f"usage: run.py {{{','.join(TARGETS)}}} [libFuzzer options]")
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
