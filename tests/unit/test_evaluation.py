"""What is asked of a model in tokens and rows: cut as lm-evaluation-harness cuts, padded by a row's own
length, dealt by work.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from crossfoot.data.samples import Encoder
from crossfoot.data.tokenizer import load_encoder
from crossfoot.evaluation.fitting import held_bytes, refuse_too_large
from crossfoot.evaluation.rows import Piece, dealt, pieces_of, rows_of, shape_of, without
from crossfoot.findings.finding import Refused
from crossfoot.tasks.items import Item, Request
from crossfoot.tasks.questions import Question, Windows, ask, in_tokens, letter_ids, windows_of
from crossfoot.written.tensor_headers import Tensor
from support.model_folders import write_model

TEXTS = (
    "the answer is B",
    "the answer: A",
    " B or C",
    "答案：A",
    "：B",
    "问题。答案：C  ",
    "is it  so? ",
    "no",
)
WHOLE = Windows(1024, 512)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """Of 300 tokens, some of which are the end of a context and the continuation behind it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "bos_token": "<s>"}))
    return load_encoder(str(folder), "")


def request(
    context: str, continuations: tuple[str, ...] = (), subject: str = "", shots: int = 0, number: int = 0
) -> Request:
    item = Item("task", subject, f"{subject}{number}", f"file:{number + 1}", context, continuations, 0)
    prefixes = tuple("shot. " * one for one in range(shots + 1))
    return Request(
        item, "loglikelihood" if continuations else "letter", prefixes, shots, context, continuations
    )


def as_the_harness_cuts(encoder: Encoder, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """lm_eval.api.model.TemplateLM._encode_pair, said again."""
    spaces = len(context) - len(context.rstrip())
    if spaces > 0:
        continuation = context[-spaces:] + continuation
        context = context[:-spaces]
    (whole,), (before,) = encoder.encode([context + continuation]), encoder.encode([context])
    return before, whole[len(before) :]


@given(context=st.sampled_from(TEXTS), continuation=st.sampled_from(TEXTS))
def test_a_continuation_has_the_tokens_that_the_harness_gives_it(
    encoder: Encoder, context: str, continuation: str
) -> None:
    (question,) = in_tokens(encoder, [request(context, (continuation,))], WHOLE)
    before, after = as_the_harness_cuts(encoder, context, continuation)
    (ours,) = question.pairs
    if after:
        assert ours == (tuple(before), tuple(after))
    else:  # it has become part of the context's last token, and the harness would score nothing
        (whole,) = encoder.encode([context + continuation])
        assert len(ours[1]) == 1 and ours[0] + ours[1] == tuple(whole)


def test_an_empty_context_is_the_end_token(encoder: Encoder) -> None:
    (question,) = in_tokens(encoder, [request("", ("no",))], WHOLE)
    assert question.pairs[0][0] == (encoder.facts.eos_id,)


def test_letters_stand_alone_and_behind_a_colon(encoder: Encoder) -> None:
    alone, behind = letter_ids(encoder, "AB")
    assert alone == tuple(encoder.encode([letter])[0][0] for letter in "AB")
    assert behind == tuple(encoder.encode([f"：{letter}"])[0][-1] for letter in "AB")


def test_shots_are_left_out_one_by_one(encoder: Encoder) -> None:
    asked = request("the answer: A", (" B", " C"), shots=4)
    (whole,) = in_tokens(encoder, [asked], WHOLE)
    fits = ask(encoder, [asked], whole.positions, WHOLE)
    assert fits.questions == (whole,) and not fits.over_long and not fits.dropped
    (shorter,) = ask(encoder, [asked], whole.positions - 1, WHOLE).questions
    assert (shorter.request.shots, shorter.dropped) == (3, 1) and shorter.positions < whole.positions
    assert ask(encoder, [asked], whole.positions - 1, WHOLE, drops=False).over_long == (
        (asked, whole.positions),
    )
    nothing = ask(encoder, [asked], 0, WHOLE)
    assert not nothing.questions and nothing.over_long[0][0].shots == 0


def question(
    *continuations: tuple[int, ...], context: tuple[int, ...] = (7, 7, 7), subject: str = ""
) -> Question:
    words = tuple(map(str, continuations))
    return Question(request("?", words, subject), tuple((context, one) for one in continuations))


@given(length=st.integers(1, 60), seen=st.integers(1, 20), stride=st.integers(1, 20))
def test_windows_predict_each_token_once(length: int, seen: int, stride: int) -> None:
    """With all that a window may see before it."""
    text = tuple(range(100, 100 + length))
    whole = (1, *text)
    windows = windows_of(seen, None, stride)
    pairs = windows.pairs(text, 1)
    assert tuple(token for _, after in pairs for token in after) == text
    at = 1
    for context, after in pairs:
        assert context == whole[at - len(context) : at]
        assert len(context) + len(after) - 1 == min(seen, length, at + len(after) - 1)
        at += len(after)


def test_a_window_is_asked_for_or_half_predicted() -> None:
    assert windows_of(8192, None, None) == Windows(1024, 512)
    assert windows_of(256, None, None) == Windows(256, 128)
    assert windows_of(None, 33, None) == Windows(33, 17)
    assert windows_of(8192, 2048, 4096) == Windows(2048, 2048)


def test_continuations_that_begin_alike_share_a_row() -> None:
    (row,) = rows_of(0, question((1,), (2,), (3,)))
    assert row.ids == (7, 7, 7) and row.first == 2 and [one.start for one in row.targets] == [2, 2, 2]
    long, other = rows_of(0, question((1,), (1, 2, 3), (1, 5), (4, 4)))
    assert long.ids == (7, 7, 7, 1, 2) and {one.choice for one in long.targets} == {0, 1, 2}
    assert other.ids == (7, 7, 7, 4) and [one.choice for one in other.targets] == [3]


def test_a_shape_is_of_the_row_alone() -> None:
    def shape(context: int, after: int, prefix: int) -> tuple[int, int]:
        (row,) = rows_of(0, question(tuple(range(after)), context=(7,) * context))
        found = shape_of(row, prefix)
        return found.padded, found.kept

    assert shape(40, 1, 8) == (32, 16)  # the last of 32 places predicts it
    assert shape(41, 1, 8) == (48, 16)
    assert shape(40, 2, 8) == (48, 32)  # its places lie on both sides of a multiple of 16
    assert shape(40, 1, 0) == (48, 16)
    assert shape(5, 40, 0) == (48, 48)


def test_a_prefix_ends_before_the_first_logits() -> None:
    one, other = question((1,), context=(5, 6, 7, 8)), question((1,), context=(5, 6, 9, 8))
    assert pieces_of([one, other])[0].prefix == (5, 6)
    assert pieces_of([one, one])[0].prefix == (5, 6, 7)
    assert pieces_of([one, other], shares=False)[0].prefix == ()
    groups = pieces_of([one, question((1,), context=(9, 9, 9), subject="b")])
    assert [piece.prefix for piece in groups] == [(5, 6, 7), (9, 9)]
    (left,) = without(pieces_of([one, other]), frozenset([0]))
    assert left.prefix == (5, 6) and [row.number for row in left.rows] == [1]


@given(
    lengths=st.lists(st.integers(4, 90), min_size=1, max_size=40),
    ranks=st.integers(1, 5),
    groups=st.integers(1, 4),
)
def test_every_row_is_dealt_once_and_the_work_evenly(lengths: list[int], ranks: int, groups: int) -> None:
    questions = [
        question((1, 2), (3, 4), context=(8, 8, *range(10, 10 + length)), subject=str(number % groups))
        for number, length in enumerate(lengths)
    ]
    pieces = pieces_of(questions)
    found = dealt(pieces, ranks)
    assert len(found) == ranks
    rows = [row for mine in found for piece in mine for row in piece.rows]
    assert sorted(row.number for row in rows) == sorted(row.number for one in pieces for row in one.rows)
    for mine in found:
        numbers = [{row.number for row in piece.rows} for piece in mine]
        assert sum(map(len, numbers)) == len(set().union(*numbers)) if numbers else True
    prefixes = {piece.prefix for mine in found for piece in mine}
    assert prefixes <= {piece.prefix for piece in pieces}
    work = [sum(piece.work for piece in mine) for mine in found]
    largest = max(len(one.prefix) + 2 * 112 for one in pieces)
    assert max(work) <= sum(one.work for one in pieces) / ranks * 1.5 + 3 * largest


def test_nothing_left_is_dealt_to_nobody() -> None:
    assert dealt([], 3) == [[], [], []]
    assert Piece((1, 2), ()).work == 2


def test_a_models_bytes_are_known_from_its_headers(tmp_path: Path) -> None:
    tensors = {
        "model.embed_tokens.weight": Tensor("F32", (100, 16)),
        "model.layers.0.self_attn.q_proj.weight": Tensor("F32", (16, 16)),
        "model.norm.weight": Tensor("F32", (16,)),
    }
    assert held_bytes(tensors, "float32") == 4 * (1600 + 256 + 16)
    assert held_bytes(tensors, "bfloat16", "int8") == 2 * 1616 + 256
    folder = str(write_model(tmp_path / "model"))
    refuse_too_large(folder, "float32", "none", 10**9, "cpu")
    with pytest.raises(Refused) as refused:
        refuse_too_large(folder, "float32", "none", 40_000, "cpu")
    (finding,) = refused.value.findings
    assert finding.code == "CF877" and "write --dtype bfloat16: it then takes" in finding.helps[0]
    with pytest.raises(Refused) as refused:
        refuse_too_large(folder, "bfloat16", "none", 10, "cpu")
    assert refused.value.findings[0].helps == ("take a machine with more memory, or a smaller model",)
