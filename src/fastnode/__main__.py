"""``python -m fastnode`` and the ``fastnode`` command."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command; say which extra is missing if it cannot run."""
    open_standard_streams()
    try:
        from fastnode.cli.main import cli  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.exit(
            f"error: the fastnode command needs {error.name}\n"
            "hint: pip install 'fastnode[cli]'"
        )
    # Without the name, help and completion would name "python -m fastnode".
    cli(prog_name="fastnode")


def open_standard_streams() -> None:
    """Open the standard streams that the program was started without.

    Otherwise a socket would get such a descriptor, and output would go into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # It gets the lowest number that is free, which is this one.
            os.open(os.devnull, os.O_RDWR)


if __name__ == "__main__":
    main()
