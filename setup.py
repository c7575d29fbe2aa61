"""The extension modules and their build variants; everything else is pyproject.toml.

FASTNODE_BUILD=release (default), or debug: bounds, wraparound and None checks on,
assertions live; or asan: debug, under AddressSanitizer and UBSan; or fuzz: asan, with
the coverage that libFuzzer follows, for clang (tests/sanitize.sh, tests/fuzz).
"""

from __future__ import annotations

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

VARIANTS = ("release", "debug", "asan", "fuzz")
VARIANT = os.environ.get("FASTNODE_BUILD", "release")
if VARIANT not in VARIANTS:
    raise SystemExit(f"FASTNODE_BUILD is one of {VARIANTS}, not {VARIANT!r}")
DEBUG = VARIANT != "release"

CHECKS = ("boundscheck", "wraparound", "initializedcheck", "nonecheck")
directives = {
    "language_level": "3",
    "auto_pickle": False,
    "cdivision": True,
    "embedsignature": True,
    **dict.fromkeys(CHECKS, DEBUG),
}
if DEBUG:
    macros = [("FASTNODE_DEBUG", "1")]
    compile_args = ["-O1", "-g", "-UNDEBUG"]
else:
    macros = [("FASTNODE_DEBUG", "0"), ("CYTHON_WITHOUT_ASSERTIONS", "1")]
    compile_args = ["-O3", "-g0"]
link_args = []
if VARIANT in ("asan", "fuzz"):
    # Both runtimes are loaded before Python: an extension module cannot bring them.
    link_args = ["-fsanitize=address,undefined"]
    compile_args += [*link_args, "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
if VARIANT == "fuzz":
    link_args = ["-shared-libasan"]
    compile_args.append("-fsanitize=fuzzer-no-link")

SOURCE = Path("src")
extensions = [
    Extension(
        ".".join(path.relative_to(SOURCE).with_suffix("").parts),
        [path.as_posix()],
        define_macros=macros,
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )
    for path in sorted(SOURCE.rglob("*.pyx"))
]

setup(
    ext_modules=cythonize(
        extensions,
        build_dir=f"build/cython-{VARIANT}",
        compiler_directives=directives,
    ),
    options={
        # A folder for each variant: objects of one are never taken for the other's.
        "build": {"build_base": f"build/{VARIANT}"},
        "build_ext": {"parallel": os.cpu_count() or 1},
    },
)
