"""Checks of this machine: settings, state folder, limits, proxies, clock, disk."""

import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ollama_dist.cli.examination import Check, Situation, Verdict, failed, passed, skipped, warned
from ollama_dist.cli.terminal import size
from ollama_dist.node.config import all_settings
from ollama_dist.node.paths import StatePaths, others_may_read
from ollama_dist.node.secret_files import admin_token_file, cluster_key_file
from ollama_dist.node.setting import Source

_OPEN_FILES_WANTED: Final = 4096
"""A client takes two descriptors, its own connection and the one to the engine: room for 2,000 of them."""

_STATE_SPACE: Final = (50_000_000, 500_000_000)
_MODEL_SPACE: Final = (1_000_000_000, 10_000_000_000)
_CLOCK_STEP_S: Final = 120.0
_LOCAL_HOSTS: Final = ("127.0.0.1", "localhost")


def check_settings(situation: Situation) -> Verdict:
    if situation.config_error:
        return failed(situation.config_error, "correct or remove that line")
    settings = situation.settings
    said = [item.key for item in all_settings() if settings.origin(item.key).source is not Source.DEFAULT]
    file = f", file {settings.config}" if settings.config else ""
    return passed(f"{len(said)} set{file}" if said else "all as by default")


def check_state_dir(situation: Situation) -> Verdict:
    root = situation.settings.node.state_dir
    if not root.exists():
        parent = _nearest_existing(root)
        if os.access(parent, os.W_OK | os.X_OK):
            return passed(f"{root} will be made on the first start")
        return failed(
            f"{root} cannot be made: {parent} is not writable", "name another folder with --state-dir"
        )
    if not root.is_dir() or not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        return failed(f"{root} cannot be used by this user", f"sudo chown -R {_user()} {root}")
    if others_may_read(root):
        return warned(f"{root} can be read by other users", f"chmod 700 {root}")
    return passed(f"{root}, for its owner only")


def check_secret_files(situation: Situation) -> Verdict:
    settings = situation.settings
    candidates = (
        cluster_key_file(settings),
        admin_token_file(settings),
        StatePaths(settings.node.state_dir).node_key,
    )
    files = [path for path in candidates if path.exists()]
    exposed = [path for path in files if others_may_read(path)]
    if exposed:
        return failed(f"other users can read {exposed[0]}", f"chmod 600 {exposed[0]}")
    return (
        passed(f"{len(files)} present, readable by their owner only") if files else skipped("none made yet")
    )


def check_open_files(_: Situation) -> Verdict:
    if sys.platform == "win32":
        return skipped("Windows has no such limit")
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return judge_open_files(soft, hard)


def judge_open_files(soft: int, hard: int) -> Verdict:
    """The two limits as ``getrlimit`` tells them; -1 is none."""
    if soft == -1 or soft >= _OPEN_FILES_WANTED:
        return passed(f"{'any number' if soft == -1 else soft} may be open at once")
    reachable = hard == -1 or hard >= _OPEN_FILES_WANTED
    fix = (
        f"ulimit -n {_OPEN_FILES_WANTED}"
        if reachable
        else "raise LimitNOFILE (systemd) or nofile (limits.conf)"
    )
    return warned(
        f"{soft} may be open at once, about {soft // 2} clients", f"{fix}, then start the node again"
    )


def check_proxies(situation: Situation) -> Verdict:
    return judge_proxies(situation.environ)


def judge_proxies(environ: Mapping[str, str]) -> Verdict:
    """Whether clients that obey proxy variables (those in Python do) would send local requests to a proxy."""
    named = next(
        (name for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY") if environ.get(name)), None
    )
    if named is None:
        return passed("no proxy variable that clients would use for this node")
    exceptions = (environ.get("no_proxy") or environ.get("NO_PROXY") or "").replace(" ", "").split(",")
    missing = [host for host in _LOCAL_HOSTS if host not in exceptions and "*" not in exceptions]
    if not missing:
        return passed(f"{named} is set, and local addresses are excepted")
    fix = "export NO_PROXY=" + ",".join([part for part in exceptions if part] + missing)
    return warned(f"{named} is set and also catches {' and '.join(missing)}", fix)


def check_clock(situation: Situation) -> Verdict:
    root = situation.settings.node.state_dir
    written = [path.stat().st_mtime for path in root.iterdir()] if root.is_dir() else []
    return judge_clock(time.time(), [*written, Path(__file__).stat().st_mtime])


def judge_clock(now: float, written: list[float]) -> Verdict:
    """Unix seconds; ``written``: when files of this machine were written. The clock cannot be earlier."""
    ahead = max(written) - now
    shown = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if ahead > _CLOCK_STEP_S:
        return warned(
            f"it shows {shown}, earlier than files written {ahead / 60:.0f} min later",
            "set the clock; turn on time synchronisation",
        )
    return passed(f"it shows {shown}, no earlier than any file")


def check_state_space(situation: Situation) -> Verdict:
    return _space(situation.settings.node.state_dir, _STATE_SPACE)


def check_model_space(situation: Situation) -> Verdict:
    named = situation.environ.get("OLLAMA_MODELS")
    return _space(Path(named) if named else Path.home() / ".ollama" / "models", _MODEL_SPACE)


def _space(folder: Path, wanted: tuple[int, int]) -> Verdict:
    disk = shutil.disk_usage(_nearest_existing(folder))
    return judge_space(folder, disk.free, wanted)


def judge_space(folder: Path, free: int, wanted: tuple[int, int]) -> Verdict:
    """``wanted``: bytes below which it fails, and below which it is a warning."""
    least, enough = wanted
    evidence = f"{size(free)} free for {folder}"
    fix = "free some space on that disk"
    if free < least:
        return failed(evidence, fix)
    return warned(f"{evidence}, {size(enough)} would be safe", fix) if free < enough else passed(evidence)


def _nearest_existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _user() -> str:
    return os.environ.get("USER") or os.environ.get("USERNAME") or "$(id -un)"


CHECKS: Final = (
    Check("settings", "settings", check_settings),
    Check("state_dir", "state folder", check_state_dir),
    Check("secret_files", "secret files", check_secret_files),
    Check("open_files", "open files", check_open_files),
    Check("proxy_catches_loopback", "proxy variables", check_proxies),
    Check("clock", "clock", check_clock),
    Check("state_space", "space for state", check_state_space),
    Check("model_space", "space for models", check_model_space),
)
