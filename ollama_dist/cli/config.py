"""``config``: the settings in use and where each came from; a check; a file to start from."""

import sys
from collections.abc import Iterator
from pathlib import Path

from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.failures import Exit, Failure
from ollama_dist.cli.output import print_json, print_lines
from ollama_dist.cli.terminal import Cell, Column, Row, Tone, table, terminal_of
from ollama_dist.node.config import Settings, all_settings
from ollama_dist.node.config_sources import as_text, this_machine
from ollama_dist.node.setting import Setting, Source


def run(arguments: Arguments) -> int:
    match arguments.action:
        case "init":
            return _init(arguments)
        case "check":
            return _check(arguments)
    return _show(arguments)


def _show(arguments: Arguments) -> int:
    settings = arguments.settings()
    if arguments.json:
        listed = {
            setting.key: {
                "value": as_text(settings.value(setting)),
                "origin": str(settings.origin(setting.key)),
            }
            for setting in all_settings()
        }
        print_json("config", {"settings": listed})
        return Exit.OK
    columns = [Column("SETTING"), Column("VALUE", shortest=16), Column("ORIGIN", shortest=20)]
    shown = columns if arguments.origin else columns[:2]
    rows = [_row(settings, setting, len(shown)) for setting in all_settings()]
    print_lines(table(shown, rows, terminal_of(sys.stdout)))
    return Exit.OK


def _row(settings: Settings, setting: Setting, columns: int) -> Row:
    value, origin = as_text(settings.value(setting)), settings.origin(setting.key)
    is_default = origin.source is Source.DEFAULT
    is_plain = is_default and setting.default_text and value == as_text(setting.default)
    shown = Cell(setting.default_text, Tone.DIM) if is_plain else Cell(value)
    cells = [Cell(setting.key), shown, Cell(str(origin), Tone.DIM if is_default else Tone.PLAIN)]
    return Row(cells[:columns])


def _check(arguments: Arguments) -> int:
    settings = arguments.settings()
    said = sum(1 for setting in all_settings() if settings.origin(setting.key).source is not Source.DEFAULT)
    file = str(settings.config) if settings.config else None
    if arguments.json:
        print_json("config-check", {"ok": True, "file": file, "set": said})
    else:
        print(f"no mistake found; {said} set, file: {file or 'none'}")
    return Exit.OK


def _init(arguments: Arguments) -> int:
    path = Path(vars(arguments).get("setting:config") or this_machine().config_file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write("\n".join(template()) + "\n")
    except OSError as error:
        if path.exists():
            raise Failure(f"{path} exists already", do="edit it, or name another with --config") from error
        raise Failure(f"{path} cannot be written: {error.strerror}") from error
    print(f"wrote {path}: every setting, explained and commented out")
    return Exit.OK


def template() -> Iterator[str]:
    """A YAML file with every setting, explained and commented out; it changes nothing as it is."""
    yield "# Settings of ollama-dist. A flag beats a variable, a variable beats this file."
    yield "# ${NAME} is filled in from the environment. Changes take effect when the node is started again."
    for setting in all_settings():
        if not setting.in_file:
            continue
        unit = f" In {setting.unit}." if setting.unit else ""
        yield ""
        yield f"# {setting.meaning}{unit}"
        yield f"# Variable {setting.env}" + (
            f", flag {setting.flag}." if setting.flag else "; it has no flag."
        )
        yield f"# Default: {setting.default_text or as_text(setting.default)}"
        yield f"#{setting.key}: {'' if setting.secret else _yaml(as_text(setting.default))}".rstrip()


def _yaml(text: str) -> str:
    return f'"{text}"' if ":" in text else text
