"""The extension modules and their build variants; everything else is pyproject.toml.

FASTNODE_BUILD=release (default) or debug: bounds, wraparound and None checks on,
assertions live.
"""

from __future__ import annotations

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

VARIANT = os.environ.get("FASTNODE_BUILD", "release")
if VARIANT not in ("release", "debug"):
    raise SystemExit(f"FASTNODE_BUILD is 'release' or 'debug', not {VARIANT!r}")
DEBUG = VARIANT == "debug"

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

SOURCE = Path("src")
extensions = [
    Extension(
        ".".join(path.relative_to(SOURCE).with_suffix("").parts),
        [path.as_posix()],
        define_macros=macros,
        extra_compile_args=compile_args,
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
