import subprocess
import sys

import pytest

from ollama_dist import __version__
from ollama_dist.cli.commands import COMMANDS, Command
from ollama_dist.cli.failures import Exit
from tests.unit.cli.conftest import Command as Cli


def test_help_names_every_command_with_examples(cli: Cli) -> None:
    ended = cli("--help")
    assert ended.code == Exit.OK
    assert all(f"\n  {command.name}" in ended.out for command in COMMANDS)
    assert "examples:" in ended.out
    assert max(map(len, ended.out.splitlines())) <= 90


def test_without_a_command_the_help_is_shown_as_a_mistake(cli: Cli) -> None:
    ended = cli()
    assert ended.code == Exit.USAGE
    assert "usage: ollama-dist COMMAND" in ended.out


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_help_with_an_example(cli: Cli, command: Command) -> None:
    ended = cli(command.name, "--help")
    assert ended.code == Exit.OK
    assert ended.out.startswith(f"usage: ollama-dist {command.name}")
    assert f"examples:\n  ollama-dist {command.name}" in ended.out
    assert ("--json" in ended.out) == command.reads
    assert "%" not in ended.out


@pytest.mark.parametrize("words", [("--version",), ("version",)])
def test_the_version_is_told(cli: Cli, words: tuple[str, ...]) -> None:
    ended = cli(*words)
    assert ended.code == Exit.OK
    assert ended.out.startswith(f"ollama-dist {__version__}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("statsu",),
            "ollama-dist: there is no command 'statsu'\n  try: did you mean `ollama-dist status`?\n",
        ),
        (("qqqq",), "ollama-dist: there is no command 'qqqq'\n  try: ollama-dist --help\n"),
        (("status", "--jsno"), "ollama-dist status has no flag --jsno\n  try: did you mean --json?\n"),
        (("serve", "--lisen=x"), "has no flag --lisen\n  try: did you mean --listen?\n"),
        (("serve", "extra"), "'extra' is one word too many\n  try: ollama-dist serve --help\n"),
        (("join",), "the following arguments are required: CODE\n  try: ollama-dist join --help\n"),
        (("--frobnicate",), "there is no flag --frobnicate\n  try: ollama-dist --help\n"),
    ],
)
def test_a_mistake_is_met_with_the_nearest(cli: Cli, words: tuple[str, ...], said: str) -> None:
    ended = cli(*words)
    assert ended.code == Exit.USAGE
    assert ended.err.endswith(said)
    assert ended.out == ""
    assert ended.err.count("\n") <= 3


def test_a_bad_setting_ends_with_one_clear_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_DIST_SLOTS", "many")
    ended = cli("status")
    assert ended.code == Exit.USAGE
    assert ended.err.startswith(
        "ollama-dist: OLLAMA_DIST_SLOTS (environment) = 'many': must be a whole number"
    )


def test_what_should_not_happen_shows_no_traceback_unless_asked(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(settings: object) -> object:
        raise RuntimeError("surprise\nin two lines")

    monkeypatch.setattr("ollama_dist.cli.status.locate", broken)
    ended = cli("status")
    assert ended.code == Exit.FAILED
    assert "RuntimeError: surprise in two lines" in ended.err
    assert ended.err.count("\n") == 3
    assert "Traceback" not in ended.err
    with pytest.raises(RuntimeError, match="surprise"):
        cli("status", "--debug")


def test_an_interrupt_ends_quietly(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(settings: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("ollama_dist.cli.status.locate", interrupted)
    ended = cli("status")
    assert (ended.code, ended.out, ended.err) == (130, "", "")


def test_a_reader_that_leaves_is_no_error() -> None:
    program = f"{sys.executable} -m ollama_dist.cli.main config show | true; echo ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.stderr) == ("0\n", "")


HEAVY = "aiohttp grpc structlog pydantic yaml zeroconf cryptography asyncio rich psutil orjson"


@pytest.mark.parametrize("words", [["--help"], ["status"], ["serve", "--help"], ["nodes"], ["version"]])
def test_nothing_slow_is_imported_for_what_should_be_quick(words: list[str]) -> None:
    program = (
        "import sys; from ollama_dist.cli.main import main\n"
        f"main({words!r}); print(sorted(set({HEAVY.split()!r}) & set(sys.modules)), file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stderr.splitlines()[-1] == "[]"
