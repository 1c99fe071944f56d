"""Characters that look like ASCII: each is one ASCII character, and texts of other scripts stay."""

from __future__ import annotations

import pytest

from crossfoot.written.look_alikes import ASCII_OF, has_look_alikes, to_ascii


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("lr.reference＝１e－４", "lr.reference=1e-4"),
        ("［a.json，b.json］", "[a.json,b.json]"),
        ("【a、b】", "[a,b]"),
        ("“name”：‘mini’", "\"name\":'mini'"),
        ("\u3000\u00a0x", "  x"),
        ("３％", "3%"),
        ("０。０３", "0.03"),
        ("–json —full −1", "-json -full -1"),
        ("数据/中文.json", "数据/中文.json"),
        ("plain", "plain"),
    ],
)
def test_ascii_is_what_was_meant(written: str, meant: str) -> None:
    assert to_ascii(written) == meant
    assert len(to_ascii(written)) == len(written)
    assert has_look_alikes(written) == (written != meant)


def test_the_table_gives_one_printable_ascii_character_each() -> None:
    assert all(
        len(meant) == 1 and " " <= meant <= "~" and not written.isascii()
        for written, meant in ASCII_OF.items()
    )
