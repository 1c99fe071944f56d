"""Records with more tokens than data.max_seq_len: cut, split between rounds, or left out; each counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import chat_cases as cases
from crossfoot.cli import main
from crossfoot.data import over_long
from crossfoot.data.tiny_tokenizer import tiny_folder
from crossfoot.findings.finding import Refused
from crossfoot.index.build import ensure_index
from crossfoot.index.look import look_at
from crossfoot.index.reference_check import compare_with_files
from crossfoot.index.show import shown_samples
from crossfoot.index.store import HEADER, DataIndex, open_index
from crossfoot.index.summary import Losses, losses, losses_by_file
from crossfoot.written.run_file import RunFile
from index_cases import jsonl, written_run


def conversation(sizes: Sequence[int], system: str | None = None, trained: Sequence[int] = ()) -> Any:
    """Rounds whose answers have so many words. trained: if given, the rounds that are."""
    turns = [] if system is None else [{"role": "system", "content": system}]
    for number, size in enumerate(sizes):
        weight = {"weight": int(number in trained)} if trained else {}
        turns += [
            {"role": "user", "content": f"q{number}"},
            {"role": "assistant", "content": f"a{number}" + " b" * size, **weight},
        ]
    return {"messages": turns}


def built(folder: Path, rows: Sequence[Any], **data: Any) -> tuple[RunFile, DataIndex]:
    path = jsonl(folder / "a.jsonl", *rows)
    settings = {"max_seq_len": 60, "over_long": "split", "template": "llama2", **data}
    run = written_run(folder, [path], **settings)
    return run, ensure_index(run, [path], is_builder=True)


def compared(run: RunFile, index: DataIndex) -> list[str]:
    comparison = compare_with_files(index, tiny_folder(run.index_dir), "seed")
    assert comparison.compared == index.num_samples and not comparison.notes
    return [one.message for one in comparison.differences]


def texts(run: RunFile, index: DataIndex) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder(run.index_dir))
    return [tokenizer.decode(index.sample(i)[0]) for i in range(index.num_samples)]


def test_a_conversation_is_split_between_its_rounds(tmp_path: Path) -> None:
    rows = [conversation([3]), conversation([4, 4, 4, 4, 4], system="be kind"), conversation([1])]
    run, index = built(tmp_path, rows, max_seq_len=110)
    assert index.numbers.tolist() == [1, 2, 2, 2, 3] and index.header.split_records == 1
    parts = texts(run, index)[1:4]
    rounds = [[n for n in range(5) if f"q{n} " in part and f"a{n} " in part] for part in parts]
    assert sorted(n for some in rounds for n in some) == list(range(5)), "each round once"
    assert all("be kind" in part for part in parts), "the system's text in each"
    assert index.lengths.max() <= 110 and not index.lost_tokens.any()
    assert compared(run, index) == []


def test_a_round_that_does_not_fit_is_cut(tmp_path: Path) -> None:
    run, index = built(tmp_path, [conversation([1, 90, 1]), conversation([90])])
    _, whole = built(tmp_path, [conversation([1, 90, 1]), conversation([90])], max_seq_len=2000)
    assert index.numbers.tolist() == [1, 1, 1, 2] and (index.header.split_records, index.num_samples) == (
        1,
        4,
    )
    assert index.header.truncated_samples == 2
    assert (index.lengths > 0).all() and index.lengths.max() == 60
    assert index.trained_tokens.sum() + index.lost_tokens.sum() == whole.trained_tokens.sum()
    assert compared(run, index) == []


def test_only_parts_with_a_trained_answer_are_samples(tmp_path: Path) -> None:
    rows = [conversation([9] * 4), conversation([9] * 4, trained=[1])]
    run, last = built(tmp_path, rows[:1], train_on="last")
    (text,) = texts(run, last)
    assert "a3" in text and compared(run, last) == []
    run, weighed = built(tmp_path, rows[1:])
    (text,) = texts(run, weighed)
    assert "a1" in text and compared(run, weighed) == []
    assert weighed.header.split_records == 0


@pytest.mark.parametrize("marks", [True, False], ids=["by marks", "turn by turn"])
def test_parts_are_what_transformers_makes_of_those_rounds(tmp_path: Path, marks: bool) -> None:
    tokenizer = cases.chat_tokenizer(tmp_path / "chat")
    source = (cases.TEMPLATES / "chatml.jinja").read_text(encoding="utf-8")
    (tmp_path / "t.jinja").write_text(source if marks else cases.without_marks(source), encoding="utf-8")
    path = jsonl(tmp_path / "a.jsonl", *({"messages": one} for one in cases.conversations(60)))
    settings = {"template": str(tmp_path / "t.jinja"), "over_long": "split", "bad_samples": "skip"}
    run = written_run(tmp_path, [path], tokenizer, max_seq_len=70, **settings)
    index = ensure_index(run, [path], is_builder=True)
    assert index.header.split_records > 5
    oracle = AutoTokenizer.from_pretrained(tokenizer)
    made = {int(number): [] for number in index.numbers}
    for i in range(index.num_samples):
        made[int(index.numbers[i])].append(index.sample(i)[0].tolist())
    for number, parts in made.items():
        turns = cases.conversations(60)[number - 1]
        system, spoken = turns[: len(turns) % 2], turns[len(turns) % 2 :]
        at = 0
        for part in parts:
            options = [
                oracle.apply_chat_template(
                    [*system, *spoken[at:end]], chat_template=source, tokenize=True, return_dict=False
                )
                for end in range(at + 2, len(spoken) + 1, 2)
            ]
            fitting = [one for one in options if len(one) <= 70] or options[:1]
            assert part == list(fitting[-1])[:70]
            at += 2 * len(fitting)
        assert at == len(spoken)
    comparison = compare_with_files(index, tokenizer, "seed")
    assert (comparison.compared, comparison.differences) == (min(200, index.num_samples), [])


def test_long_records_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [conversation([1]), conversation([90]), conversation([1, 1]), conversation([40, 40])]
    run, index = built(tmp_path, rows, over_long="drop")
    assert index.numbers.tolist() == [1, 3] and index.header.over_long_records == 2
    assert [one.code for one in index.rejects] == ["CF564", "CF564"]
    assert index.rejects[0].reason.endswith("tokens, data.max_seq_len is 60")
    assert compared(run, index) == [] and losses(index).words == "2 left out as over-long"
    look = look_at(run)
    assert (look.over_long_records, look.rejected_records, look.truncated_samples) == (2, 0, 0)
    exact = look_at(run, index)
    assert (exact.over_long_records, exact.rejected_records) == (2, 0)
    assert main(["plan", run.path]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "records left out as over-long 2 data.over_long drop" in said


def test_all_left_out_is_no_data(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        built(tmp_path, [conversation([90])] * 3, over_long="drop")
    (finding,) = refused.value.findings
    assert finding.code == "CF505" and "data.over_long: drop" in finding.label
    run = written_run(tmp_path, [str(tmp_path / "a.jsonl")], max_seq_len=60, over_long="drop")
    assert [one.code for one in look_at(run).findings] == ["CF505"]


def test_a_question_that_fills_the_window_is_named(tmp_path: Path) -> None:
    row = conversation([1, 1])
    row["messages"][2]["content"] = "long " * 40
    with pytest.raises(Refused) as refused:
        built(tmp_path, [row])
    (finding,) = refused.value.findings
    assert finding.code == "CF509" and finding.label.startswith("the prompt of a round has ")
    run = written_run(tmp_path, [str(tmp_path / "a.jsonl")], max_seq_len=60, over_long="split")
    assert [one.code for one in look_at(run).findings] == ["CF509"]


def test_the_default_is_no_part_of_an_address(tmp_path: Path) -> None:
    rows = [conversation([1, 30]), conversation([1])]
    addresses = {
        how: built(tmp_path, rows, **{} if how is None else {"over_long": how})[1].address
        for how in ("truncate", "split", "drop")
    }
    assert len(set(addresses.values())) == 3
    path = str(tmp_path / "a.jsonl")
    plain = written_run(tmp_path, [path], max_seq_len=60, template="llama2")
    assert ensure_index(plain, [path], is_builder=True).address == addresses["truncate"]


def test_an_index_from_before_the_key_is_still_good(tmp_path: Path) -> None:
    _, index = built(tmp_path, [conversation([1])], over_long="truncate")
    values = json.loads(Path(index.folder, HEADER).read_text(encoding="utf-8"))
    for key in ("sha256", "over_long", "split_records", "over_long_records"):
        del values[key]
    values["sha256"] = sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    Path(index.folder, HEADER).write_text(json.dumps(values), encoding="utf-8")
    assert open_index(index.folder).header == index.header


def test_a_look_without_an_index_knows_of_the_splitting(tmp_path: Path) -> None:
    run, index = built(tmp_path, [*[conversation([9] * 4)] * 3, conversation([1]), conversation([90])])
    look, exact = look_at(run), look_at(run, index)
    assert look.split_records == exact.split_records == 3
    assert look.truncated_samples == exact.truncated_samples == 1
    assert look.lost_share == pytest.approx(exact.lost_share, rel=0.1)


def test_each_file_says_what_it_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = jsonl(tmp_path / "a.jsonl", conversation([9] * 4), {"messages": []}, conversation([90]))
    second = jsonl(tmp_path / "b.jsonl", conversation([1]), conversation([9] * 4), conversation([9] * 5))
    third = jsonl(tmp_path / "c.jsonl", conversation([1]))
    settings = {"max_seq_len": 60, "over_long": "split", "template": "llama2", "bad_samples": "skip"}
    run = written_run(tmp_path, [first, second, third], **settings)
    assert main(["index", run.path]) == 0
    said = capsys.readouterr().out
    index = ensure_index(run, [first, second, third], is_builder=False)
    each = losses_by_file(index)
    assert [(one.left_out, one.truncated, one.split) for one in each] == [(1, 1, 1), (0, 0, 2), (0, 0, 0)]
    sums = Losses(*(sum(getattr(one, name) for one in each) for name in Losses.__dataclass_fields__))
    assert sums == losses(index)
    lost = index.header.lost_tokens
    line = f"1 left out, 1 cut short (losing {lost} trained tokens), 1 split into several samples"
    assert f"  {first}: {line}" in said and f"  {second}: 2 split into several samples" in said
    assert third not in said


def test_the_samples_shown_say_what_becomes_of_them(tmp_path: Path) -> None:
    run, _ = built(tmp_path, [conversation([9] * 4), conversation([90])])
    first, second = (one.splitlines()[0] for one in shown_samples(run, 2, colour=False))
    assert "; split into " in first and "cut at" not in first
    assert "; cut at 60 tokens, which costs " in second and "split" not in second
    dropping = written_run(tmp_path, [str(tmp_path / "a.jsonl")], max_seq_len=60, over_long="drop")
    assert "; left out, it has " in next(shown_samples(dropping, 1, colour=False))


Split = Callable[..., Iterator[Any]]


def _the_last_part_is_lost(split: Split) -> Split:
    return lambda *words: iter(list(split(*words))[:-1])


def _one_round_a_part(split: Split) -> Split:
    return lambda texts, template, _, measure: split(texts, template, 1, measure)


def _in_another_order(split: Split) -> Split:
    return lambda *words: reversed(list(split(*words)))


def _without_the_system(split: Split) -> Split:
    def mutant(texts: Any, *words: Any) -> Iterator[Any]:
        return split(replace(texts, turns=texts.turns[texts.turns[0].role == "system" :]), *words)

    return mutant


def _one_part_too_many(split: Split) -> Split:
    def mutant(*words: Any) -> Iterator[Any]:
        parts = list(split(*words))
        return iter([*parts, parts[-1]])

    return mutant


MUTANTS = (
    _the_last_part_is_lost,
    _one_round_a_part,
    _in_another_order,
    _without_the_system,
    _one_part_too_many,
)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_fault_of_the_splitting_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: Callable[[Split], Split]
) -> None:
    monkeypatch.setattr(over_long, "_split", mutant(over_long._split))
    run, index = built(tmp_path, [conversation([3] * 7, system="be kind")], max_seq_len=100)
    assert compared(run, index) != []
