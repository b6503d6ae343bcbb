"""``key``: the keys that clients on other machines show. Works on the file, whether the node runs or not."""

import sys
from dataclasses import asdict

from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.failures import Exit, Failure
from ollama_dist.cli.output import print_json, print_lines
from ollama_dist.cli.terminal import Cell, Column, Row, table, terminal_of
from ollama_dist.core.errors import BadRequest
from ollama_dist.node.client_keys import SHARE_MAX, USUAL, ClientKey, KeyFile, Share, new_key, parse_scopes
from ollama_dist.node.paths import StatePaths
from ollama_dist.node.setting_values import whole_number


def run(arguments: Arguments) -> int:
    file = KeyFile(StatePaths(arguments.settings().node.state_dir).client_keys)
    match arguments.action:
        case "add":
            _add(arguments, file)
        case "revoke":
            name = _named(arguments)
            file.revoke(name)
            print(f"revoked: {name}", file=sys.stderr)
        case _:
            _list(arguments, file.keys())
    return Exit.OK


def _add(arguments: Arguments, file: KeyFile) -> None:
    scopes = parse_scopes(arguments.scope) if arguments.scope is not None else USUAL
    key, text = new_key(_named(arguments), scopes, _share(arguments))
    file.add(key)
    if arguments.json:
        print_json("key", {**_row(key), "key": text.reveal()})
        return
    print(f"export OLLAMA_API_KEY={text.reveal()}")
    print(f"it allows {', '.join(key.scopes)}, and is shown this once", file=sys.stderr)


def _share(arguments: Arguments) -> Share | None:
    """What the key gets, where that was said."""
    if arguments.per_minute is None and arguments.at_once is None:
        return None
    amount = whole_number(0, SHARE_MAX)
    try:
        return Share(amount(arguments.per_minute or "0"), amount(arguments.at_once or "0"))
    except ValueError as error:
        raise BadRequest(f"--per-minute and --at-once {error}") from error


def _list(arguments: Arguments, keys: tuple[ClientKey, ...]) -> None:
    if arguments.json:
        print_json("keys", {"keys": [_row(key) for key in keys]})
    elif not keys:
        print("there are no keys; ollama-dist key add NAME makes one", file=sys.stderr)
    else:
        columns = [
            Column("NAME", shortest=12),
            Column("ALLOWS", shortest=12),
            Column("AT MOST"),
            Column("MADE"),
        ]
        rows = [
            Row([Cell(key.name), Cell(", ".join(key.scopes)), Cell(_at_most(key)), Cell(key.created_at)])
            for key in keys
        ]
        print_lines(table(columns, rows, terminal_of(sys.stdout)))


def _at_most(key: ClientKey) -> str:
    share = key.share
    if share is None:
        return "as the node says"
    parts = [f"{share.per_minute} a minute"] * bool(share.per_minute)
    parts += [f"{share.at_once} at once"] * bool(share.at_once)
    return ", ".join(parts) or "no limit"


def _named(arguments: Arguments) -> str:
    if not arguments.key_name:
        raise Failure(
            f"ollama-dist key {arguments.action} needs a name",
            do=f"ollama-dist key {arguments.action} NAME",
            exit_code=Exit.USAGE,
        )
    return str(arguments.key_name)


def _row(key: ClientKey) -> dict[str, object]:
    share = None if key.share is None else asdict(key.share)
    return {"name": key.name, "scopes": list(key.scopes), "created_at": key.created_at, "share": share}
