"""The program of `test_watch_and_fork.py`: it watches files, and then forks.

``python -m helpers.fork_watch_main HOW FOLDER``. It says in a line of JSON what the
child, or the grandchild, and the parent have at the end.

HOW: ``plain``; ``twice`` the child forks once more; ``busy`` the watch waits for a
password while the process forks; ``closed`` the watch was closed before.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from fastnode import CertAuthManager, Certificate
from fastnode.certs.authority import Authority
from fastnode.names import NodeName

SECONDS = 20.0
NAME = NodeName.parse("a@127.0.0.1")


def until(condition: Callable[[], bool]) -> bool:
    """Whether it holds within SECONDS."""
    end = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def serial(manager: CertAuthManager) -> int:
    """The serial number of the certificate in use."""
    assert manager.certificate is not None
    return manager.certificate.serial_number


def write(folder: Path, ca: Authority) -> Certificate:
    """Put a new pair into the files, and return it."""
    issued = ca.issue(NAME)
    issued.replace(folder / "cert.pem", folder / "key.pem")
    return issued.certificate()


def main(how: str, folder: Path) -> None:
    """Watch, fork, rotate and report."""
    ca = Authority.create("fork CA")
    (folder / "ca.pem").write_bytes(ca.cert_pem)
    write(folder, ca)
    manager = CertAuthManager(None, live_trust=True)
    watch = manager.watch(
        folder / "cert.pem",
        folder / "key.pem",
        folder / "ca.pem",
        interval=0.02,
    )
    if how == "closed":
        watch.close()
    reader, writer = os.pipe()
    ready, go = os.pipe()
    held = threading.Event()
    if how == "busy":
        # Stands for a change that takes long: the lock is held by another thread.
        busy = threading.Event()

        def hold() -> None:
            with watch._lock:
                busy.set()
                held.wait(SECONDS)

        threading.Thread(target=hold, daemon=True).start()
        busy.wait(SECONDS)
    before = serial(manager)
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        grandchild = os.fork() if how == "twice" else 0
        if grandchild:
            os._exit(os.waitpid(grandchild, 0)[1])
        os.write(go, b"x")
        alive = watch._thread.is_alive()
        followed = how != "closed"
        new = followed and until(lambda: serial(manager) != before)
        trust = followed and until(lambda: len(manager.root_cas or ()) == 2)
        watch.close()
        said = [new, trust, serial(manager), alive, watch._thread.is_alive()]
        os.write(writer, json.dumps(said).encode())
        os._exit(0)
    took = time.monotonic() - began
    held.set()
    os.read(ready, 1)
    other = Authority.create("other CA")
    both = ca.cert_pem + other.cert_pem
    (folder / "ca.new").write_bytes(both)
    (folder / "ca.new").rename(folder / "ca.pem")
    made = write(folder, ca)
    new, trust, number, alive, left = json.loads(os.read(reader, 4096))
    followed = how != "closed"
    told = {
        "certificate": new and number == made.serial_number,
        "trust": trust,
        "thread": alive,
        "thread after close": left,
        "parent": followed and until(lambda: serial(manager) == made.serial_number),
        "status": os.waitpid(child, 0)[1],
        "forked soon": took < SECONDS / 2,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    # Newer versions of Python warn where a process with threads forks.
    warnings.simplefilter("ignore", DeprecationWarning)
    main(sys.argv[1], Path(sys.argv[2]))
