"""Samples as text, with what of them is trained: what `crossfoot index --show` prints. No index is made."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import islice

from crossfoot.arithmetic.held_out import NothingLeft, hold_out
from crossfoot.data.findings import Problem
from crossfoot.data.numbering import numbering_of, record_place
from crossfoot.data.over_long import parts_of, truncated
from crossfoot.data.records import read_records
from crossfoot.data.samples import Coded, Encoder, Shape, Texts, coded_texts, texts_of
from crossfoot.data.template_source import shape_of
from crossfoot.data.tokenizer import load_encoder, tokenizer_path
from crossfoot.data.train_sources import train_files
from crossfoot.findings.finding import Refused
from crossfoot.index.locate import find_index, refuse_unopenable
from crossfoot.index.store import segment_digests
from crossfoot.phrases import counted, listed
from crossfoot.written.run_file import RunFile

_TRAINED, _AROUND, _PLAIN = "\x1b[1;32m", "\x1b[2m", "\x1b[0m"
_OPEN, _CLOSE = "{+", "+}"
"""Around what is trained where there is no colour, as a diff of words has it."""


def shown_samples(run: RunFile, count: int, *, colour: bool) -> Iterator[str]:
    """The first `count` records of the training files, each as a text: where it stands, how many tokens it
    has, and the sample; one that cannot be trained with the reason. Raises Refused as the index does.
    """
    data = run.config.data
    files = train_files(data)
    refuse_unopenable(files, data.task, run)
    encoder = load_encoder(
        tokenizer_path(run.config), run.index_dir, place=run.tokenizer_place, special_text=data.special_text
    )
    shape = shape_of(run)
    held_out = _held_out(run)
    found = ((file_id, one) for file_id, file in enumerate(files) for one in read_records(file))
    for file_id, record in islice(found, count):
        texts = record if isinstance(record, Problem) else texts_of(record, file_id, shape)
        file = files[file_id]
        if isinstance(texts, Problem):
            yield f"{texts.place(file)}: not trained, {texts.reason} ({texts.code})"
        else:
            place = record_place(file, numbering_of(file), texts.number)
            words = _counts(texts, shape, encoder, held_out)
            yield f"{place}: {words}\n{_text(texts, encoder, colour=colour)}"


def _held_out(run: RunFile) -> Collection[int]:
    """Digests of what is held out for validation, as far as there is an index that says it."""
    part = run.config.data.held_out
    with suppress(Refused, NothingLeft):
        if part is not None and (index := find_index(run, train_files(run.config.data))) is not None:
            return frozenset(index.digests[hold_out(index.digests, part).validation].tolist())
    return ()


def _counts(texts: Texts, shape: Shape, encoder: Encoder, held_out: Collection[int]) -> str:
    """`57 tokens, 12 of them trained`, what becomes of it where it is too long, and whether a part of it has
    one of these digests.
    """

    def code(texts: Texts) -> Coded:
        return next(coded_texts((texts,), encoder))

    coded = code(texts)
    trained = sum(coded.trained[1:])
    words = f"{counted(len(coded.ids), 'token')}, {trained:,} of them trained"
    if shape.task == "pretrain":
        return words
    parts = parts_of(texts, coded, shape, code)
    if isinstance(parts, Problem):
        return f"{words}; left out, {parts.reason} ({parts.code})"
    if len(parts) > 1:
        lengths = [f"{len(part.ids):,}" for part in parts]
        words += f"; split into {len(parts)} samples of {listed(lengths)} tokens"
    if lost := sum(sum(part.trained[shape.max_seq_len :]) for part in parts):
        words += f"; cut at {shape.max_seq_len:,} tokens, which costs {lost:,} trained ones"
    samples = [truncated(part, texts, shape.max_seq_len) for part in parts]
    kept = sum(segment_digests(one.ids, one.trained)[1] in held_out for one in samples)
    if kept:
        words += "; held out for validation" if kept == len(parts) else f"; {kept} held out for validation"
    return words


def _text(texts: Texts, encoder: Encoder, *, colour: bool) -> str:
    names = {number: text for text, number in encoder.special.ids.items()}
    begin = "".join(names.get(number, "") for number in encoder.facts.bos_ids)
    end = names.get(encoder.facts.eos_id, "")
    parts: list[tuple[str, bool]] = []
    for stretch in texts.stretches:
        is_trained = bool(stretch.trained)
        parts += [(begin, False)] if stretch.begins else []
        parts += stretch.segments
        parts += [(end, is_trained)] if stretch.ends else []
    return "".join(_shown(text, is_trained, colour=colour) for text, is_trained in _joined(parts))


def _joined(parts: list[tuple[str, bool]]) -> Iterator[tuple[str, bool]]:
    """Parts of one kind that follow each other as one; none empty."""
    held, is_held_trained = "", False
    for text, is_trained in parts:
        if is_trained != is_held_trained and held:
            yield held, is_held_trained
            held = ""
        held, is_held_trained = held + text, is_trained
    if held:
        yield held, is_held_trained


def _shown(text: str, is_trained: bool, *, colour: bool) -> str:
    text = text.replace("\x1b", "\\x1b")
    if not colour:
        return f"{_OPEN}{text}{_CLOSE}" if is_trained else text
    # A colour begins anew on every line: pagers take it off at its end.
    paint = _TRAINED if is_trained else _AROUND
    return "\n".join(f"{paint}{line}{_PLAIN}" if line else line for line in text.split("\n"))
