"""Where a person's files belong on this system."""

import os
import sys
from pathlib import Path
from typing import Final

_APP: Final = "ollama-dist"
_IS_LINUX: Final[bool] = sys.platform == "linux"


def state_folder() -> Path:
    """For what the program remembers."""
    if _IS_LINUX:
        return _xdg("XDG_STATE_HOME", ".local/state")
    import platformdirs

    return platformdirs.user_state_path(_APP, appauthor=False)


def config_folder() -> Path:
    """For what the person writes."""
    if _IS_LINUX:
        return _xdg("XDG_CONFIG_HOME", ".config")
    import platformdirs

    return platformdirs.user_config_path(_APP, appauthor=False)


def _xdg(variable: str, usual: str) -> Path:
    """What `platformdirs` says on Linux, without the 35 ms its import takes from every command."""
    named = os.environ.get(variable, "").strip()
    return (Path(named) if Path(named).is_absolute() else Path.home() / usual) / _APP
