"""The log of an evaluation: kept line by line, read from however many files, gone on with."""

from __future__ import annotations

import errno
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from crossfoot.findings.finding import Refused
from crossfoot.scores.item_log import ItemLog, read_log
from crossfoot.scores.item_score import Key, Scored, prompt_sha256
from crossfoot.scores.score_file import SCORES, score_text, scores_sha256, write_scores
from crossfoot.tasks.items import Decoding, Item, Request
from support.made_scores import ORIGIN, made_choice, made_items, write_log


def _asked(items: list[Scored]) -> dict[Key, str]:
    return {one.score.key: one.score.prompt_sha256 for one in items}


def test_what_was_scored_is_read_again_bit_by_bit(tmp_path: Path) -> None:
    items = [*made_items(), made_choice(12, scores=(-0.0, -math.inf, 5e-324, math.nan))]
    read = read_log(write_log(tmp_path / "log", items))
    assert [repr(one) for one in read.items] == [repr(one) for one in items]
    assert read.origin == ORIGIN and not read.told
    assert [(one.budget_tokens, one.why) for one in read.budgets] == [
        (16384, "half of the free memory"),
        (8192, "out of memory"),
    ]
    assert read.budgets[0].seconds == 0
    assert read.budgets[1].seconds == pytest.approx(sum(one.work.milliseconds for one in items[:6]) / 1000)


def test_a_folder_without_a_log_is_an_empty_one(tmp_path: Path) -> None:
    assert read_log(tmp_path / "none").items == ()
    (tmp_path / "items.jsonl").write_text('{"format"')
    read = read_log(tmp_path)
    assert read.origin is None and read.done(ORIGIN, {}) == {}


def test_a_torn_line_is_told_and_computed_again(tmp_path: Path) -> None:
    items = list(made_items())
    write_log(tmp_path, items, budgets=False)
    path = tmp_path / "items.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    read = read_log(tmp_path)
    assert [one.code for one in read.told] == ["CF866"] and str(read.told[0].place) == f"{path}:13"
    done = read.done(ORIGIN, _asked(items))
    assert list(done) == [one.score.key for one in items[:-1]]
    with ItemLog(tmp_path, ORIGIN) as log:
        log.add(items[-1:])
    again = read_log(tmp_path)
    assert list(again.items) == items and not again.told


def test_it_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    items = list(made_items(11))
    write_log(tmp_path, items[:5], ranks=3)
    write_log(tmp_path, items[5:], ranks=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "items-rank1.jsonl",
        "items-rank2.jsonl",
        "items.jsonl",
    ]
    assert [one.score for one in read_log(tmp_path).items] == [one.score for one in items]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": "bfloat16"}, "dtype: float32 there, bfloat16 now"),
        ({"weights": "e" * 64}, "weights: "),
        ({"options": {"shots": 3}}, "shots: 5 there, 3 now"),
        ({"options": {}}, "shots: 5 there, - now"),
        ({"torch": "2.14.0"}, "torch: 2.13.0 there, 2.14.0 now"),
    ],
)
def test_scores_made_otherwise_are_refused(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    items = list(made_items())
    other = replace(ORIGIN, **changes)  # type: ignore[arg-type]
    read = read_log(write_log(tmp_path, items))
    with pytest.raises(Refused, match="CF865") as refused:
        read.done(other, _asked(items))
    (finding,) = refused.value.findings
    assert len(finding.notes) == 1 and words in finding.notes[0]
    with pytest.raises(Refused, match="CF865"):
        ItemLog(tmp_path, other)
    ItemLog(tmp_path, replace(ORIGIN, model="elsewhere/tiny", crossfoot="9.9")).close()
    write_log(tmp_path / "b", items, origin=other)
    os.rename(tmp_path / "b" / "items.jsonl", tmp_path / "items-rank1.jsonl")
    with pytest.raises(Refused, match="CF865"):
        read_log(tmp_path)


def test_items_asked_otherwise_or_not_at_all_are_refused(tmp_path: Path) -> None:
    items = list(made_items())
    read = read_log(write_log(tmp_path, items))
    more = _asked(items) | {Key("cmmlu", "0"): "0"}
    assert len(read.done(ORIGIN, more)) == 12
    with pytest.raises(Refused) as refused:
        read.done(ORIGIN, more | {items[3].score.key: "0"})
    assert refused.value.findings[0].notes == ("the prompts", "of 1 item: ceval/law-3")
    with pytest.raises(Refused) as refused:
        read.done(ORIGIN, _asked(items[4:]))
    assert refused.value.findings[0].notes[1].endswith("ceval/physics-2 and 1 more")


def test_damage_is_named_with_its_line(tmp_path: Path) -> None:
    path = write_log(tmp_path, list(made_items())) / "items.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for broken, where in (
        ([*lines[:4], "{]\n", *lines[4:]], 5),
        ([lines[0], lines[2].replace('"index": 0', '"index": "a"'), *lines[3:]], 2),
        (["[]\n", *lines], 1),
        ([lines[0].replace('"format": 1', '"format": 7'), *lines[1:]], 1),
        ([*lines, '{"budget_tokens": "many"}\n'], 16),
    ):
        path.write_text("".join(broken), encoding="utf-8")
        with pytest.raises(Refused, match="CF867") as refused:
            read_log(tmp_path)
        assert str(refused.value.findings[0].place) == f"{path}:{where}"


def test_one_item_has_one_score(tmp_path: Path) -> None:
    items = list(made_items())
    write_log(tmp_path, items)
    write_log(tmp_path, items[:3])
    assert list(read_log(tmp_path).items) == items
    zero = made_choice(20, scores=(0.0, -1.0, -2.0, -3.0))
    write_log(tmp_path, [zero, replace(zero, score=replace(zero.score, scores=(-0.0, -1.0, -2.0, -3.0)))])
    with pytest.raises(Refused, match="CF869"):
        read_log(tmp_path)


def test_a_second_evaluation_is_refused_while_one_is_writing(tmp_path: Path) -> None:
    with ItemLog(tmp_path, ORIGIN), pytest.raises(Refused, match=r"CF868.*another evaluation"):
        ItemLog(tmp_path, ORIGIN)
    ItemLog(tmp_path, ORIGIN).close()


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = list(made_items())
    with ItemLog(tmp_path, ORIGIN) as log:
        log.add(items[:5])
        raw = log._file._file

        class Full:
            def write(self, data: bytes) -> int:
                raw.write(data[:7])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            def __getattr__(self, name: str) -> object:
                return getattr(raw, name)

        monkeypatch.setattr(log._file, "_file", Full())
        with pytest.raises(Refused, match=r"CF868.*no space left"):
            log.add(items[5:])
        monkeypatch.setattr(log._file, "_file", raw)
    read = read_log(tmp_path)
    assert list(read.items) == items[:5] and not read.told


def test_the_score_file_holds_no_time_and_no_path(tmp_path: Path) -> None:
    items = list(made_items())
    sha256 = write_scores(tmp_path, (one.score for one in items))
    content = (tmp_path / SCORES).read_bytes()
    assert scores_sha256(content.decode()) == sha256
    assert "中国语言文学" in content.decode()
    for name in ("milliseconds", "peak_bytes", "rank", "rows_in_forward", "token_slots", "place"):
        assert f'"{name}"' not in content.decode()
    moved = [replace(one, work=replace(one.work, place="elsewhere", milliseconds=1.0)) for one in items]
    assert score_text(one.score for one in reversed(moved)) == content.decode()


def test_a_prompt_is_all_that_is_asked() -> None:
    item = Item("t", "s", "1", "f:1", "q", ("a", "b"), 0)
    request = Request(item, "loglikelihood", ("p",), 0, "q", ("a", "b"))
    digests = [
        prompt_sha256(one)
        for one in (
            request,
            replace(request, question="Q"),
            replace(request, continuations=("a", "c")),
            replace(request, continuations=("ab",)),
            replace(request, decoding=Decoding(20)),
            replace(request, decoding=Decoding(21)),
        )
    ]
    assert len(set(digests)) == 6
    assert digests[0] == prompt_sha256(replace(request, prefixes=("",), question="pq"))
