"""How much of its text a tokenizer can say, by what it does with what no vocabulary has."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from crossfoot.data.lost_characters import JUDGED_ALWAYS, JUDGED_OF, LostCharacters
from crossfoot.data.tiny_tokenizer import tiny_tokenizer
from crossfoot.findings.finding import Refused
from crossfoot.index.build import ensure_index
from crossfoot.index.look import index_findings, look_at
from crossfoot.written.run_file import load_run
from index_cases import held, jsonl, written_run

TEXT = "The quick brown fox, 敏捷的狐狸 jumps"  # 27 letters and signs, 5 of them Chinese
LATIN = "abcdefghijklmnopqrstuvwxyzT,"
ENGLISH = ["The quick brown fox jumps over the lazy dog, and runs away." * 3] * 50


def of_characters(vocabulary: str, unknown: str | None = None, **settings: bool) -> Tokenizer:
    words = [*([unknown] if unknown else []), *vocabulary]
    pieces = {word: number for number, word in enumerate(words)}
    return Tokenizer(models.BPE(pieces, [], unk_token=unknown, **settings))


def of_words() -> Tokenizer:
    tokenizer = Tokenizer(
        models.WordLevel(
            {w: i for i, w in enumerate(["<unk>", "The", "quick", "brown", "fox", ",", "jumps"])}
        )
    )
    tokenizer.model.unk_token = "<unk>"
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def of_word_pieces() -> Tokenizer:
    pieces = ["[UNK]", *LATIN.lower(), *(f"##{letter}" for letter in LATIN.lower())]
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def of_unigrams() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -1.0), *((c, -2.0) for c in LATIN)], 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def judged(tokenizer: Tokenizer, text: str = TEXT) -> tuple[int, int]:
    found = LostCharacters(
        lambda texts: [tokenizer.encode(one, add_special_tokens=False).ids for one in texts]
    )
    found.judge(text)
    return found.lost, found.characters


@pytest.mark.parametrize(
    "make",
    [
        lambda: of_characters(LATIN),  # drops what it does not know
        lambda: of_characters(LATIN, "<unk>"),
        lambda: of_characters(LATIN, "<unk>", fuse_unk=True),
        of_words,
        of_word_pieces,
        of_unigrams,
    ],
    ids=["dropping", "unknown", "fused", "words", "word pieces", "unigrams"],
)
def test_another_script_is_lost_to_a_vocabulary_without_it(make: Callable[[], Tokenizer]) -> None:
    assert judged(make()) == (5, 27 + 5 - 5)


def test_words_that_are_half_known_are_looked_at_by_character() -> None:
    assert judged(of_characters(LATIN + "敏的", "<unk>")) == (3, 27)


def test_bytes_lose_nothing() -> None:
    assert judged(tiny_tokenizer(), TEXT + " 🦤 \u0378 \U00012016")[0] == 0


def test_a_vocabulary_of_nothing_loses_all() -> None:
    assert judged(Tokenizer(models.BPE({}, []))) == (27, 27)
    assert judged(of_characters("", "<unk>")) == (27, 27)


def test_records_are_looked_at_evenly() -> None:
    seen = LostCharacters(lambda texts: [[1, ord(one[-1])] for one in texts])
    for place in range(1, 1 + JUDGED_ALWAYS + 10 * JUDGED_OF):
        seen.see(place, ["a"])
    assert abs(seen.characters - JUDGED_ALWAYS - 10) <= 1


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sentencepiece folder that was trained on English alone."""
    folder = tmp_path_factory.mktemp("english")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(ENGLISH),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return str(folder)


@pytest.mark.parametrize(
    ("answers", "severity"),
    [
        (["今天天气真不错"] * 8, "error"),
        (["the dog runs away over the fox"] * 9 + ["狐狸狐狸狐狸"], "warning"),
        (["the dog runs away over the fox"] * 10, ""),
    ],
)
@pytest.mark.parametrize("task", ["sft", "pretrain"])
def test_data_in_a_script_that_the_tokenizer_does_not_have(
    tmp_path: Path, english: str, answers: list[str], severity: str, task: str
) -> None:
    asked = answers[0]
    rows = [{"instruction": asked, "output": one, "text": one} for one in answers]
    path = jsonl(tmp_path / "a.jsonl", *rows)
    run = written_run(tmp_path, [path], tokenizer=english, task=task)
    looks = look_at(run).findings
    found = [one for one in looks if one.code == "CF554"]
    assert [one.severity for one in found] == ([severity] if severity else [])
    index = ensure_index(run, [path], is_builder=True)
    assert [(one.severity, one.title) for one in index_findings(run, index) if one.code == "CF554"] == [
        (one.severity, one.title) for one in found
    ]
    if severity == "error":
        assert found[0].place == run.place("tokenizer", "path")
        assert found[0].notes[-1] == "for example: 今天天气真不错"
        with pytest.raises(Refused, match="CF554"):
            held(run)  # also where its index is there
        accepting = load_run(
            run.path, ["checks.accept.characters-lost=a language that it shall learn to name"]
        )
        (accepted,) = [one for one in look_at(accepting).findings if one.code == "CF554"]
        assert accepted.counts_as == "accepted"
        held(accepting)
    else:
        held(run)
