"""``ollama-dist``: find the command, run it, and end with words and an exit code a script can rely on."""

import os
import sys
from collections.abc import Callable, Sequence

from ollama_dist import __version__
from ollama_dist.cli.commands import BY_NAME, COMMANDS
from ollama_dist.cli.failures import Exit, Failure
from ollama_dist.core.errors import ConfigError, DistError, Unauthorized

_INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command in ``words``, or in the process's own arguments; the exit code."""
    return guarded(list(sys.argv[1:] if words is None else words), _run)


def guarded(words: list[str], run: Callable[[list[str]], int]) -> int:
    """Run a program on its arguments; whatever it raises becomes words on standard error and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        code = run(words)
        sys.stdout.flush()
        return code
    except SystemExit as end:  # --help
        return int(end.code or 0)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader left; without this the interpreter complains while it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except Exception as error:
        if "--debug" in words:
            raise
        failure = _failure_of(error)
        print("\n".join(failure.lines()), file=sys.stderr)
        return failure.exit_code


def _run(words: list[str]) -> int:
    name = next((word for word in words if not word.startswith("-")), None)
    if name is None:
        return _without_command(words)
    if name not in BY_NAME:
        from ollama_dist.node.setting_values import nearest

        near = nearest(name, BY_NAME)
        do = f"did you mean `ollama-dist {near}`?" if near else "ollama-dist --help"
        raise Failure(f"there is no command {name!r}", do=do, exit_code=Exit.USAGE)
    words.remove(name)
    command = BY_NAME[name]
    return command.run(command.parser().read(words))


def _without_command(words: list[str]) -> int:
    if "--version" in words or "-V" in words:
        print(f"ollama-dist {__version__}")
        return Exit.OK
    unknown = [word for word in words if word not in ("--help", "-h", "--debug")]
    if unknown:
        raise Failure(f"there is no flag {unknown[0]}", do="ollama-dist --help", exit_code=Exit.USAGE)
    print(_overview())
    return Exit.OK if words else Exit.USAGE


def _overview() -> str:
    lines = ["Several machines, one Ollama.", "", "usage: ollama-dist COMMAND [--flags]", ""]
    lines += [f"  {command.name:<12}{command.summary}" for command in COMMANDS]
    return "\n".join(
        [
            *lines,
            "",
            "examples:",
            "  ollama-dist serve             start a node; clients use it as they use Ollama",
            "  ollama-dist status            see the nodes and what is wrong",
            "  ollama-dist invite            let another machine join",
            "",
            "ollama-dist COMMAND --help tells more. Exit codes: 0 ok, 1 failed, 2 usage, 3 degraded,",
            "4 not running, 5 not allowed.",
        ]
    )


def _failure_of(error: Exception) -> Failure:
    match error:
        case Failure():
            return error
        case ConfigError():
            return Failure(str(error), do="ollama-dist config show", exit_code=Exit.USAGE)
        case Unauthorized():
            return Failure(str(error), exit_code=Exit.NOT_ALLOWED)
        case DistError():
            return Failure(str(error), do="ollama-dist doctor")
    why = f"{type(error).__name__}: {error}"
    return Failure(
        "this should not have happened", why=why, do="the same again with --debug, and report what it prints"
    )


if __name__ == "__main__":
    sys.exit(main())
