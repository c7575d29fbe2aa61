"""What kernel TLS would save a sender: instructions or CPU time for a flush.

    python bench/kernel_tls.py                  on this kernel, in ns of CPU time
    python bench/kernel_tls.py --kernel FOLDER  on another one, in instructions: an
                                                unpacked package of Debian, in QEMU

The program and its method are in kernel_tls.c. It needs a C compiler and OpenSSL's
headers, with --kernel also its static library, qemu-system-x86 and busybox-static.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import emulator
from contenders.floor import FLAGS, NotBuilt, compiler, library_flags

SOURCE = Path(__file__).with_suffix(".c")
#: What the kernel encrypts with, by the instructions of the processor, and its TLS.
MODULES = ("cryptd", "crypto_simd", "aesni-intel", "tls")
EMULATED_SECONDS = 1800.0


def build(program: Path, *, static: bool) -> None:
    """Compile it.

    Raises:
        NotBuilt: this is why not.
    """
    found = next(library_flags())
    if static:
        if shutil.which("pkg-config") is None:
            raise NotBuilt("install pkg-config: it knows what a static OpenSSL needs")
        asked = ["pkg-config", "--static", "--cflags", "--libs", "openssl"]
        output = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=False)
        found = ["-static", *shlex.split(output.stdout)]
    command = [*compiler(), *FLAGS, "-o", str(program), str(SOURCE), *found]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise NotBuilt(made.stderr)


def table(found: list[dict[str, Any]], unit: str) -> str:
    """What the program found, in Markdown."""
    rows = [
        f"| flush | plain TCP, {unit} | OpenSSL | kernel TLS | to it | both sides |",
        "|---|---|---|---|---|---|",
    ]
    for each in found:
        if "size" not in each:
            continue
        (user, user_both), (kernel, kernel_both) = each["user"], each["kernel"]
        size = each["size"]
        name = f"{size >> 10} KiB" if size >= 1024 else f"{size} B"
        rows.append(
            f"| {name} | {each['plain'][0]:,} | {user:,} | {kernel:,} "
            f"| {kernel / user:.2f} | {kernel_both / user_both:.2f} |"
        )
    answer = next((each["new key"] for each in found if "new key" in each), "unknown")
    return "\n".join([*rows, "", f"A new key for a connection: {answer}"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kernel", type=Path, metavar="FOLDER")
    parser.add_argument("--flushes", type=int, default=200, help="of each size and way")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "kernel_tls"
        arguments = [str(options.flushes)]
        try:
            build(program, static=options.kernel is not None)
            if options.kernel is None:
                unit = "ns"
                done = subprocess.run(
                    [str(program), *arguments], stdout=subprocess.PIPE, check=False
                )
                said = done.stdout.decode()
            else:
                unit = "instructions"
                said = emulator.run(
                    program, arguments, options.kernel, MODULES, EMULATED_SECONDS
                )
        except (NotBuilt, emulator.NoEmulator, subprocess.TimeoutExpired) as error:
            print(f"kernel_tls: {error}", file=sys.stderr)
            return 1
    found = [json.loads(line) for line in re.findall(r'\{".*\}', said)]
    if not found:
        print(said, end="", file=sys.stderr)
        return 1
    print(table(found, unit))
    return 0


if __name__ == "__main__":
    sys.exit(main())
