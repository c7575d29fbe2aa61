"""A watch that was made before a fork goes on in the child: gunicorn's preload."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="this system cannot fork"
)


@pytest.mark.parametrize("how", ["plain", "twice", "busy", "closed"])
def test_a_watch_rotates_in_a_forked_child(how: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "helpers.fork_watch_main", how, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    followed = how != "closed"
    assert json.loads(done.stdout) == {
        "certificate": followed,
        "trust": followed,
        "thread": followed,
        "thread after close": False,
        "parent": followed,
        "status": 0,
        "forked soon": True,
    }
