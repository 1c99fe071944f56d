"""However a log is ordered, split over ranks, torn and gone on with, the score file has the same bytes."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from crossfoot.findings.finding import Refused
from crossfoot.scores.item_log import ItemLog, read_log
from crossfoot.scores.item_score import Score, Scored, Work
from crossfoot.scores.result_folder import finish
from crossfoot.scores.score_file import score_text
from crossfoot.scores.summary import summary_of
from support.made_scores import ORIGIN, made_log, write_log

_TEXT = st.text(st.characters(exclude_characters="\0"), max_size=8)
_SCORE = st.floats(max_value=0) | st.sampled_from([-0.0, math.nan, -math.inf, -5e-324])


@st.composite
def _items(draw: st.DrawFn) -> list[Scored]:
    items = []
    for index in range(draw(st.integers(1, 12))):
        scores = draw(st.lists(_SCORE, min_size=2, max_size=4))
        ones = (1,) * len(scores)
        score = Score(
            task=draw(st.sampled_from(["a", "b", "中"])),
            index=draw(st.integers(0, 3)),
            subject=draw(_TEXT),
            id=str(index),
            kind="loglikelihood",
            shots=0,
            prompt_sha256="0",
            gold=draw(st.none() | st.integers(0, len(scores) - 1)),
            scores=tuple(scores),
            tokens=ones,
            characters=ones,
            text=draw(st.none() | _TEXT),
        )
        work = Work(
            "f:1", draw(st.integers(1, 99)), 16, draw(st.floats(0, 1e6)), draw(st.integers(0, 1 << 40))
        )
        items.append(Scored(score, work))
    return items


def _log(folder: Path, items: Sequence[Scored], ranks: Sequence[int]) -> None:
    for rank in set(ranks):
        with ItemLog(folder, ORIGIN, rank) as log:
            log.add([one for one, own in zip(items, ranks, strict=True) if own == rank])


@settings(max_examples=40)
@given(data=st.data(), items=_items())
def test_any_order_and_any_split_give_the_same_bytes(data: st.DataObject, items: list[Scored]) -> None:
    expected = score_text(one.score for one in items)
    mixed = data.draw(st.permutations(items))
    ranks = data.draw(st.lists(st.integers(0, 11), min_size=len(items), max_size=len(items)))
    with tempfile.TemporaryDirectory() as folder:
        _log(Path(folder), mixed, ranks)
        read = read_log(folder)
        assert score_text(one.score for one in read.items) == expected
        summary = summary_of(read, "")
        direct = summary_of(replace(read, written=tuple(items)), "")
        assert repr((summary.tasks, summary.whole)) == repr((direct.tasks, direct.whole))


@settings(max_examples=40)
@given(data=st.data(), items=_items(), cut=st.integers(1, 400))
def test_a_log_that_was_cut_anywhere_is_gone_on_with(
    data: st.DataObject, items: list[Scored], cut: int
) -> None:
    asked = {one.score.key: one.score.prompt_sha256 for one in items}
    with tempfile.TemporaryDirectory() as folder:
        _log(Path(folder), items, [0] * len(items))
        path = Path(folder, "items.jsonl")
        content = path.read_bytes()
        path.write_bytes(content[: max(0, len(content) - cut)])
        done = read_log(folder).done(ORIGIN, asked)
        left = [one for one in items if one.score.key not in done]
        rank = data.draw(st.integers(0, 3))
        _log(Path(folder), left, [rank] * len(left))
        again = read_log(folder)
        assert score_text(one.score for one in again.items) == score_text(one.score for one in items)


_VALUES = st.sampled_from(
    ["null", "-1", "7", "1e999", "[]", "{}", '"x"', "[0.5]", '"rolling"', "true", "1" * 400]
)


@settings(max_examples=60)
@given(data=st.data())
def test_a_log_with_another_value_is_refused_or_read_and_never_a_traceback(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_log(Path(folder), made_log().items) / "items.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n")
        at = data.draw(st.integers(0, len(lines) - 2))
        document = json.loads(lines[at])
        key = data.draw(st.sampled_from(sorted(document)))
        if data.draw(st.booleans()):
            document.pop(key)
            lines[at] = json.dumps(document)
        else:
            document[key] = "<here>"
            lines[at] = json.dumps(document).replace('"<here>"', data.draw(_VALUES))
        path.write_text("\n".join(lines), encoding="utf-8")
        with suppress(Refused):
            finish(folder)
