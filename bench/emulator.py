"""One program on a kernel of its own, in QEMU, where time is instructions.

With ``-icount shift=0`` the machine's clock moves by 1 ns for each instruction, so that
what a clock says in it is a count, whatever else the host is doing.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["NoEmulator", "run"]

QEMU, BUSYBOX = "qemu-system-x86_64", "busybox"
# With `rep movs` for all copies an emulated processor would count each byte.
PROCESSOR = "max,-erms,-fsrm"
KERNEL_LINE = "console=ttyS0 quiet panic=-1 clocksource=tsc tsc=reliable"
INIT = """#!/busybox sh
/busybox mount -t proc proc /proc
/busybox mount -t devtmpfs dev /dev
for module in {modules}; do /busybox insmod /$module; done
/busybox ifconfig lo 127.0.0.1 up
/program {arguments}
/busybox poweroff -f
"""


class NoEmulator(Exception):
    """It cannot be had, for this reason."""


def run(
    program: Path,
    arguments: Sequence[str],
    kernel: Path,
    modules: Sequence[str],
    seconds: float,
) -> str:
    """Boot, run the program as root, and return what the console said.

    Args:
        program: linked statically.
        kernel: an unpacked kernel package (``dpkg -x linux-image-....deb FOLDER``).
        modules: what to load, in this order.
        seconds: how long it may take.

    Raises:
        NoEmulator: something is missing.
        subprocess.TimeoutExpired: it took longer.
    """
    qemu, busybox = shutil.which(QEMU), shutil.which(BUSYBOX)
    if qemu is None or busybox is None:
        raise NoEmulator("install qemu-system-x86 and busybox-static")
    images = sorted(kernel.glob("boot/vmlinuz-*"))
    if not images:
        raise NoEmulator(
            f"{kernel} has no boot/vmlinuz-*: unpack a kernel package there"
        )
    files = {"busybox": Path(busybox).read_bytes(), "program": program.read_bytes()}
    for name in modules:
        files[f"{name}.ko"] = module(kernel, name)
    files["init"] = INIT.format(
        modules=" ".join(f"{name}.ko" for name in modules),
        arguments=" ".join(arguments),
    ).encode()
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "initrd"
        archive.write_bytes(gzip.compress(cpio(files, ("proc", "dev", "tmp")), 1))
        command = [
            qemu, "-accel", "tcg", "-icount", "shift=0,sleep=off", "-cpu", PROCESSOR,
            "-smp", "1", "-m", "1G", "-nographic", "-no-reboot", "-net", "none",
            "-kernel", str(images[-1]), "-initrd", str(archive), "-append", KERNEL_LINE,
        ]  # fmt: skip
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    return done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")


def module(kernel: Path, name: str) -> bytes:
    """The kernel module of that name."""
    for path in kernel.glob(f"lib/modules/*/kernel/**/{name}.ko*"):
        data = path.read_bytes()
        return lzma.decompress(data) if path.suffix == ".xz" else data
    raise NoEmulator(f"{kernel} has no module {name}")


def cpio(files: dict[str, bytes], folders: Sequence[str]) -> bytes:
    """An archive of programs and empty folders, as the kernel unpacks it ("newc")."""

    def entry(name: str, mode: int, data: bytes = b"") -> bytes:
        numbers = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % each for each in numbers)
        head += name.encode() + b"\0"
        return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)

    made = [entry(name, stat.S_IFDIR | 0o755) for name in folders]
    made += [entry(name, stat.S_IFREG | 0o755, data) for name, data in files.items()]
    return b"".join(made) + entry("TRAILER!!!", 0)
