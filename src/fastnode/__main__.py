"""``python -m fastnode`` and the ``fastnode`` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; say which extra is missing if it cannot run."""
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


if __name__ == "__main__":
    main()
