"""The JSON scanner against json.loads, over values, layouts and broken text; and every place is where it
says.
"""

from __future__ import annotations

import json
import re
from typing import Any

import hjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crossfoot.findings.finding import LINE_BREAK, Place
from crossfoot.written.json_tree import BrokenJson, JsonTree, read_json_tree
from crossfoot.written.source import Source

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
    | st.sampled_from(["\u2028", "\r\n", "中文", '"', "\\", "\ud800", "\U0001f600"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
BLANKS = st.text(alphabet=" \t\r\n", max_size=3)
SOUP = st.lists(
    st.sampled_from(
        [*'{}[],:"', *" \t\n\r\\/#'0-+.eE", "true", "nul", "NaN", "-Infinity", '"a"', '"a":', "12", "\\u12"]
    ),
    max_size=14,
).map("".join)


def strict_loads(text: str) -> Any:
    def refuse(word: str) -> None:
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


def read(text: str) -> JsonTree:
    return read_json_tree(Source("x.json", text))


def spaced(value: Any, blank: Any) -> str:
    """JSON text of `value` with a blank drawn at every place where one may stand."""
    if isinstance(value, dict):
        inside = ",".join(f"{blank()}{json.dumps(k)}{blank()}:{spaced(v, blank)}" for k, v in value.items())
        return f"{blank()}{{{inside}{blank()}}}{blank()}"
    if isinstance(value, list):
        return f"{blank()}[{','.join(spaced(v, blank) for v in value) or blank()}]{blank()}"
    return f"{blank()}{json.dumps(value)}{blank()}"


def offset(text: str, place: Place) -> int:
    """The character offset of a place, counted anew from the lines."""
    starts = [0, *(match.end() for match in LINE_BREAK.finditer(text))]
    return starts[place.line - 1] + place.column - 1


@settings(deadline=None)
@given(VALUES, st.data())
def test_it_reads_what_json_loads_reads_and_places_point_at_it(value: Any, data: st.DataObject) -> None:
    text = spaced(value, lambda: data.draw(BLANKS))
    tree = read(text)
    assert repr(tree.value) == repr(strict_loads(text))
    assert not tree.duplicates
    decoder = json.JSONDecoder()
    for path, place in tree.values.items():
        expected = tree.value
        for key in path:
            expected = expected[key]
        found, end = decoder.raw_decode(text, offset(text, place))
        assert repr(found) == repr(expected)
        at_most = LINE_BREAK.split(text[offset(text, place) : end])[0]
        assert place.width == len(at_most)
    for path, place in tree.keys.items():
        assert decoder.raw_decode(text, offset(text, place))[0] == path[-1]


@settings(deadline=None, max_examples=300)
@given(SOUP)
@example("[1,]")
@example('{"a":1,"a":[2]}')
@example('{"a":01}')
@example("[1e999]")
@example("[1\f]")
@example("[1,\u00a02]")
@example("")
@example("\ufeff1")
def test_it_accepts_and_refuses_as_json_loads_does(text: str) -> None:
    try:
        expected = strict_loads(text)
    except (ValueError, RecursionError):
        expected = BrokenJson
    try:
        tree = read(text)
        is_strict = not tree.comments and not tree.extra_commas
        found = tree.value if is_strict else BrokenJson
    except BrokenJson as error:
        found = BrokenJson
        assert 0 <= offset(text, error.place) <= len(text)
        assert error.place.line <= len(LINE_BREAK.split(text))
    assert repr(found) == repr(expected)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=4), st.data())
def test_comments_and_trailing_commas_are_read_as_deepspeeds_reader_reads_them(
    value: Any, data: st.DataObject
) -> None:
    blanks = st.sampled_from(["", " ", "\n", "//c, }\n", "/* ] */", '# "x\n', " // a\n /*\n*/ // b\n"])
    text = spaced(value, lambda: data.draw(blanks))
    text = re.sub(r"(?<=[\d\"el])([}\]])", lambda end: data.draw(st.sampled_from(["", ","])) + end[1], text)
    try:
        expected = hjson.loads(text)
    except hjson.HjsonDecodeError:  # a bracket inside a string was changed
        return
    tree = read(text)
    assert tree.value == expected
    for place in tree.comments:
        assert text[offset(text, place)] in "/#"
    for place in tree.extra_commas:
        assert text[offset(text, place)] == ","
    if tree.comments or tree.extra_commas:
        with pytest.raises(ValueError):
            json.loads(text)


@settings(deadline=None)
@given(VALUES, st.data())
def test_a_damaged_text_is_judged_as_json_loads_judges_it(value: Any, data: st.DataObject) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=data.draw(st.sampled_from([None, 1])))
    at = data.draw(st.integers(0, len(text)))
    text = text[:at] + data.draw(SOUP) + text[at + data.draw(st.integers(0, 3)) :]
    test_it_accepts_and_refuses_as_json_loads_does.hypothesis.inner_test(text)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=6))
def test_every_duplicate_is_reported_once(pairs: list[tuple[str, int]]) -> None:
    text = "{" + ", ".join(f'"{key}": {value}' for key, value in pairs) + "}"
    tree = read(text)
    assert tree.value == dict(pairs)
    assert len(tree.duplicates) == len(pairs) - len(dict(pairs))
    for (key,), first, second in tree.duplicates:
        assert text[first.column - 1 :].startswith(f'"{key}"') and first.column < second.column
