import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.cli.terminal import (
    Cell,
    Column,
    Row,
    Terminal,
    Tone,
    ago,
    count,
    milliseconds,
    size,
    table,
    terminal_of,
)

COLUMNS = [
    Column("NODE", shortest=6),
    Column("STATE"),
    Column("MODELS", keep=2, shortest=6),
    Column("RTT", 1, right=True),
]


def row(*texts: str, note: str = "") -> Row:
    return Row([Cell(text) for text in texts], note)


def test_columns_stand_below_their_titles() -> None:
    rows = [row("desk", "ready", "llama3:8b", "0.4 ms"), row("laptop", "dead", "-", "-", note="no answer")]
    assert table(COLUMNS, rows, Terminal(80)) == [
        "NODE    STATE  MODELS        RTT",
        "desk    ready  llama3:8b  0.4 ms",
        "laptop  dead   -               -",
        "  no answer",
    ]


def test_a_table_without_rows_is_its_titles() -> None:
    assert table(COLUMNS, [], Terminal(80)) == ["NODE  STATE  MODELS  RTT"]


def test_long_cells_are_cut_before_columns_are_left_out() -> None:
    rows = [row("desk", "ready", "llama3:8b, qwen3:4b, gemma3:27b", "0.4 ms")]
    assert table(COLUMNS, rows, Terminal(40))[1] == "desk  ready  llama3:8b, qwen3:4…  0.4 ms"
    assert table(COLUMNS, rows, Terminal(40, unicode=False))[1] == "desk  ready  llama3:8b, qwen3:4~  0.4 ms"


def test_what_matters_least_is_left_out_first() -> None:
    rows = [row("desk", "ready", "llama3:8b", "0.4 ms")]
    assert table(COLUMNS, rows, Terminal(20))[0] == "NODE  STATE  MODELS"
    assert table(COLUMNS, rows, Terminal(18))[0] == "NODE  STATE"


@given(
    st.lists(st.tuples(*[st.text("abc ", max_size=60)] * 4), max_size=5),
    st.integers(20, 120),
    st.booleans(),
)
def test_no_line_is_wider_than_the_terminal(cells: list[tuple[str, ...]], width: int, unicode: bool) -> None:
    lines = table(COLUMNS, [row(*texts, note=texts[0]) for texts in cells], Terminal(width, unicode=unicode))
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("NODE")


def test_colour_changes_no_width() -> None:
    rows = [Row([Cell("desk"), Cell("dead", Tone.BAD), Cell("-"), Cell("-")])]
    painted = table(COLUMNS, rows, Terminal(80, colour=True))[1]
    assert "\x1b[31mdead\x1b[0m " in painted
    assert painted.replace("\x1b[31m", "").replace("\x1b[0m", "") == table(COLUMNS, rows, Terminal(80))[1]


class Screen(io.TextIOWrapper):
    """A terminal that understands one encoding."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def isatty(self) -> bool:
        return True


def test_colour_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    assert terminal_of(Screen("utf-8")).colour
    assert not terminal_of(io.StringIO()).colour
    monkeypatch.setenv("TERM", "dumb")
    assert not terminal_of(Screen("utf-8")).colour
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "")
    assert not terminal_of(Screen("utf-8")).colour


def test_an_old_console_gets_plain_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    assert terminal_of(Screen("utf-8")).unicode
    assert not terminal_of(Screen("cp850")).unicode
    monkeypatch.setenv("COLUMNS", "60")
    assert terminal_of(Screen("ascii")).width == 60


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (4_661_224_676, "4.7 GB"),
        (41e9, "41 GB"),
        (999_600_000, "1.0 GB"),
    ],
)
def test_sizes(number: float, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "now"), (4.2, "4 s"), (119, "119 s"), (130, "2 min"), (7300, "2 h"), (200_000, "2 d")],
)
def test_spans(seconds: float, text: str) -> None:
    assert ago(seconds) == text


def test_figures() -> None:
    assert milliseconds(0.42) == "0.4 ms"
    assert milliseconds(12.4) == "12 ms"
    assert count(1, "node") == "1 node"
    assert count(0, "node") == "0 nodes"


@given(st.floats(0, 1e16))
def test_a_size_is_always_short(number: float) -> None:
    assert len(size(number)) <= 9
