"""Clients that cannot live in the tests' own environment, installed from their lock files.

Each has a folder that git does not know, named for what was locked: it is made once, by whichever of the
tests' processes comes first, and never changed.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CACHE: Final = ROOT / ".cache" / "clients"
MINUTES: Final = 5
"""For an installation, on a slow machine behind a slow line."""


def node_modules(project: Path) -> Path:
    """The folder with the ``node_modules`` that the lock file in ``project`` asks for."""
    lock = project / "package-lock.json"

    def install(folder: Path) -> None:
        for file in (project / "package.json", lock):
            shutil.copy(file, folder)
        _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)

    return _made_once("node", lock.read_bytes(), install)


def python_of(lock: Path) -> Path:
    """The interpreter of an environment with the requirements in ``lock`` and nothing else."""
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = str(base if base.exists() else sys.executable)

    def install(folder: Path) -> None:
        inside = str(folder / "bin" / "python")
        wanted = ["--quiet", "--require-hashes", "--requirement", str(lock)]
        if shutil.which("uv"):
            _run(["uv", "venv", "--quiet", "--allow-existing", "--python", python, str(folder)], ROOT)
            _run(["uv", "pip", "install", "--python", inside, *wanted], ROOT)
        else:
            _run([python, "-m", "venv", str(folder)], ROOT)
            _run([inside, "-m", "pip", "install", "--disable-pip-version-check", *wanted], ROOT)

    return _made_once(lock.stem, lock.read_bytes() + sys.version.encode(), install) / "bin" / "python"


def _made_once(name: str, locked: bytes, install: Callable[[Path], None]) -> Path:
    folder = CACHE / f"{name}-{hashlib.sha256(locked).hexdigest()[:12]}"
    done = folder / "installed"
    CACHE.mkdir(parents=True, exist_ok=True)
    with _alone(folder.with_suffix(".lock")):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            install(folder)
            done.touch()
    return folder


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time; a killed one lets go by dying."""
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        timeout=MINUTES * 60,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout}"
