"""The command line's grammar: flags made from the settings' own descriptions, and help that helps."""

import os
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import Any, NoReturn

from ollama_dist.cli.failures import Exit, Failure
from ollama_dist.node.config import Settings, all_settings
from ollama_dist.node.config_sources import as_text, load_settings
from ollama_dist.node.setting import Setting
from ollama_dist.node.setting_values import nearest

_SETTING = "setting:"


class Arguments(Namespace):
    """What was given to one command."""

    command: str = ""
    json: bool = False
    debug: bool = False

    def settings(self) -> Settings:
        """The settings these flags, the environment and the file make. Raises `ConfigError`."""
        flags = {
            name.removeprefix(_SETTING): text
            for name, text in vars(self).items()
            if name.startswith(_SETTING) and text is not None
        }
        return load_settings(flags, os.environ)


class Parser(ArgumentParser):
    """The flags of one command. A mistake is raised as `Failure`, with the nearest flag."""

    def __init__(self, prog: str, summary: str, examples: Sequence[tuple[str, str]]) -> None:
        self._flags: list[str] = []
        self._words: list[str] = []
        super().__init__(
            prog,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=_examples(examples),
            usage=f"{prog} [--flags]",
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def add_argument(self, *names: str, **details: Any) -> Any:
        if names[0].startswith("-"):
            self._flags += [name for name in names if name.startswith("--")]
        else:
            more = "..." if details.get("nargs") in ("+", "*") else ""
            self._words.append(f"{details['metavar']}{more}")
            self.usage = f"{self.prog} {' '.join(self._words)} [--flags]"
        return super().add_argument(*names, **details)

    def add_settings(self, keys: Sequence[str] | None) -> None:
        """Flags for these settings; None: for every one that has a flag."""
        for setting in all_settings():
            if setting.has_flag and (keys is None or setting.key in keys):
                self._add_setting(setting)

    def read(self, words: Sequence[str]) -> Arguments:
        """The arguments in these words. Raises `Failure`; ``--help`` prints and raises `SystemExit`."""
        arguments, unknown = self.parse_known_args(words, Arguments())
        if unknown:
            self._refuse(unknown[0])
        return arguments

    def error(self, message: str) -> NoReturn:
        raise Failure(message, do=f"{self.prog} --help", exit_code=Exit.USAGE)

    def _add_setting(self, setting: Setting) -> None:
        destination = f"{_SETTING}{setting.key}"
        text = _explained(setting)
        if not setting.is_switch:
            metavar = setting.key.rpartition("_")[2].upper()
            self.add_argument(f"--{setting.dashed}", dest=destination, metavar=metavar, help=text)
            return
        for flag, value in ((f"--{setting.dashed}", "true"), (f"--no-{setting.dashed}", "false")):
            shown = text if flag == setting.flag else SUPPRESS
            self.add_argument(flag, dest=destination, action="store_const", const=value, help=shown)

    def _refuse(self, word: str) -> NoReturn:
        flag = word.partition("=")[0]
        if not flag.startswith("-"):
            raise Failure(f"{word!r} is one word too many", do=f"{self.prog} --help", exit_code=Exit.USAGE)
        near = nearest(flag, self._flags)
        do = f"did you mean {near}?" if near else f"{self.prog} --help"
        raise Failure(f"{self.prog} has no flag {flag}", do=do, exit_code=Exit.USAGE)


def _explained(setting: Setting) -> str:
    off = "Turn this off: " if setting.default is True else ""
    default = "" if setting.is_switch else f" Default: {setting.default_text or as_text(setting.default)}."
    return f"{off}{setting.meaning}{default} [{setting.env}]".replace("%", "%%")


def _examples(examples: Sequence[tuple[str, str]]) -> str:
    lines = [f"  {command}" + (f"\n      {purpose}" if purpose else "") for command, purpose in examples]
    return "examples:\n" + "\n".join(lines)
