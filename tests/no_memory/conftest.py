"""Tests in which Python finds no memory: only in a process of their own.

Parts of CPython itself do not survive a failed allocation. What they leave behind must
not disturb other tests, so `tests/integration/test_no_memory.py` runs these in a child.
"""

import os

if not os.environ.get("FASTNODE_TEST_NO_MEMORY"):
    collect_ignore_glob = ["test_*.py"]
