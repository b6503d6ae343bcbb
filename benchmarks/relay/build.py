"""The two C programs, compiled with the system's compiler."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
PROGRAMS: Final = ("upstream", "load")


class NoCompiler(Exception):
    """This machine cannot compile C."""


def compiler() -> str:
    """The system's C compiler, or what ``CC`` names; raises `NoCompiler`."""
    found = shutil.which(os.environ.get("CC", "cc"))
    if found is None:
        raise NoCompiler("there is no C compiler here (cc, or what CC names)")
    return found


def build(folder: Path) -> None:
    """Put `PROGRAMS` into ``folder``."""
    for name in PROGRAMS:
        flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([compiler(), *flags, "-o", folder / name, HERE / f"{name}.c"], check=True)
