"""The text of findings: carets under what they mean, whatever stands before it on the line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.cells import cell_len

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.render import WIDEST_CELLS, render


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def one(text: str, place: Place, label: str = "") -> list[str]:
    Path(place.file).write_text(text, encoding="utf-8", newline="")
    return render([Finding("CF001", "a fact", place=place, label=label)]).splitlines()


def test_the_whole_of_it() -> None:
    Path("a.yaml").write_text("one: 1\n" * 8 + "two: 22\n" + "one: 1\n" * 100 + "three: 3\n")
    finding = Finding(
        "CF101",
        "two is not three",
        place=Place("a.yaml", 9, 6, 2),
        label="two",
        others=(
            (Place("a.yaml", 110, 8), "three"),
            (Place("command line"), "also"),
            (Place("gone.yaml", 3, 4), ""),
        ),
        notes=("a note",),
        helps=("a change", "or another"),
    )
    assert render([finding, Finding("CF901", "a thing", severity="warning")]) == (
        "error[CF101]: two is not three\n"
        "  --> a.yaml:9:6\n"
        "   |\n"
        "9  | two: 22\n"
        "   |      ^^ two\n"
        "  ::: a.yaml:110:8\n"
        "   |\n"
        "110| three: 3\n"
        "   |        - three\n"
        "  ::: command line: also\n"
        "  ::: gone.yaml:3:4\n"
        "   = note: a note\n"
        "   = help: a change\n"
        "   = help: or another\n"
        "\n"
        "warning[CF901]: a thing\n"
        "\n"
        "1 error, 1 warning"
    )


def test_counts() -> None:
    assert render([]) == "nothing found"
    findings = [Finding("CF001", "x"), Finding("CF001", "y"), Finding("CF001", "z", severity="note")]
    assert render(findings).splitlines()[-1] == "2 errors, 1 note"


def test_wide_characters_take_two_cells() -> None:
    rows = one("数据: [甲, 乙丙]\n", Place("a.yaml", 1, 9, 2))
    assert rows[3] == "1 | 数据: [甲, 乙丙]"
    assert rows[4] == "  | " + " " * cell_len("数据: [甲, ") + "^^^^"


def test_combining_and_emoji() -> None:
    text = "e\u0301x: \U0001f600 v\n"
    rows = one(text, Place("a.yaml", 1, text.index("v") + 1))
    assert rows[4] == "  | " + " " * 7 + "^"


def test_tabs_go_to_the_next_stop() -> None:
    rows = one('\t"a":\t1\n', Place("a.yaml", 1, 7))
    assert rows[3] == '1 |     "a":    1'
    assert rows[4] == "  |             ^"


def test_a_caret_past_the_end_of_the_line() -> None:
    assert one("abc\n", Place("a.yaml", 1, 4, 5))[4] == "  |    ^"


def test_lines_end_where_the_readers_say() -> None:
    assert one("a\r\nb\rc\u2028d\ne\n", Place("a.yaml", 3, 1))[3] == "3 | c\ufffdd"
    assert one("a\r\nb\rc\u2028d\ne\n", Place("a.yaml", 4, 1))[3] == "4 | e"


def test_a_long_line_is_cut_around_the_caret() -> None:
    rows = one("x" * 5000 + "HERE" + "y" * 100_000 + "\n", Place("a.yaml", 1, 5001, 4), "label")
    assert cell_len(rows[3]) <= WIDEST_CELLS + 10
    at = rows[4].index("^^^^")
    assert rows[3][at : at + 4] == "HERE"


def test_a_wide_mark_is_cut_too() -> None:
    rows = one("[" + "1," * 5000 + "1]\n", Place("a.yaml", 1, 1, 10_003))
    assert cell_len(rows[3]) <= WIDEST_CELLS + 10 and cell_len(rows[4]) <= WIDEST_CELLS + 10


def test_nothing_in_a_file_or_a_title_steers_the_terminal() -> None:
    Path("a.yaml").write_text("k: \x1b[31m\u202ev\n")
    place = Place("a.yaml", 1, 4)
    text = render([Finding("CF001", "bad \x1b[2J\nname", place=place, label="\x07", helps=("\r",))])
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", text)


def test_colour_only_when_asked() -> None:
    Path("a.yaml").write_text("a: 1\n")
    finding = Finding("CF001", "a fact", place=Place("a.yaml", 1, 4), label="here", helps=("do it",))
    plain, coloured = render([finding]), render([finding], colour=True)
    assert "\x1b" not in plain
    assert "\x1b[1;31m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain
