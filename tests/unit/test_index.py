"""The index holds what the data says, token by token, and survives races, crashes and damage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from hashlib import blake2b, sha256
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from crossfoot.data.tiny_tokenizer import write_tiny_tokenizer
from crossfoot.data.tokenizer import copy_tokenizer, load_encoder
from crossfoot.findings.finding import Refused
from crossfoot.index import build, chunks, waiting
from crossfoot.index.build import ensure_index
from crossfoot.index.locate import find_index
from crossfoot.index.store import DataIndex, IndexDamaged, open_index, read_header, segment_digests
from index_cases import GOOD, alpaca2, jsonl, written_run
from tokenizer_cases import JSON, write

SHARED = Path(__file__).parents[3] / "shared" / "data"
CHINESE = SHARED / "chinese-llama-2-tokenizer"
ALPACA = SHARED / "alpaca_zh_demo.json"
needs_shared = pytest.mark.skipif(not ALPACA.is_file(), reason="../shared is not beside this repository")
SRC = Path(__file__).parents[2] / "src"


def built(folder: Path, *files: str, **data: object) -> DataIndex:
    return ensure_index(written_run(folder, list(files), **data), list(files), is_builder=True)


def in_bytes(text: str) -> list[int]:
    """Ids of a text in builtin:tiny, from its definition: byte-level characters in code-point order, from
    id 4.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    character = {b: b for b in printable} | {b: 256 + n for n, b in enumerate(others)}
    order = sorted(character.values())
    return [4 + order.index(character[b]) for b in text.encode()]


def test_sft_sample_token_by_token(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"instruction": "问", "input": "x", "output": "答\n2"})
    index = built(tmp_path, path)
    prompt = [1, *in_bytes(alpaca2("问", "x"))]
    ids, trained = index.sample(0)
    assert ids.tolist() == [*prompt, *in_bytes("答\n2"), 2]
    assert trained.tolist() == [False] * len(prompt) + [True] * 6
    assert (index.lengths[0], index.trained_tokens[0], index.lost_tokens[0]) == (len(prompt) + 6, 6, 0)
    header = index.header
    assert (header.real_tokens, header.trained_tokens, header.truncated_samples) == (len(prompt) + 6, 6, 0)
    assert header.tokenizer.vocabulary == 260
    assert (header.tokenizer.eos_id, header.tokenizer.bos_ids) == (2, (1,))
    assert header.sources[0].sha256 == sha256(Path(path).read_bytes()).hexdigest()
    with pytest.raises(IndexError):
        index.sample(1)


def test_truncation_counts_what_is_lost(tmp_path: Path) -> None:
    prompt = 1 + len(in_bytes(alpaca2("q", "")))
    rows = [{"instruction": "q", "output": "a" * length} for length in (4, 5, 9)]
    index = built(tmp_path, jsonl(tmp_path / "a.jsonl", *rows), max_seq_len=prompt + 5)
    assert index.lost_tokens.tolist() == [0, 1, 5]
    assert index.trained_tokens.tolist() == [5, 5, 5]
    assert (index.sample(0)[0][-1], index.sample(1)[0][-1]) == (2, in_bytes("a")[0])
    assert (index.header.truncated_samples, index.header.lost_tokens) == (2, 6)


def test_the_smallest_window_that_trains_anything(tmp_path: Path) -> None:
    prompt = 1 + len(in_bytes(alpaca2("q", "")))
    path = jsonl(tmp_path / "a.jsonl", {"instruction": "q", "output": "abc"})
    assert built(tmp_path, path, max_seq_len=prompt + 1).trained_tokens.tolist() == [1]
    with pytest.raises(Refused, match="CF509"):
        built(tmp_path, path, max_seq_len=prompt)


def test_several_files_in_order_and_duplicates(tmp_path: Path) -> None:
    one = jsonl(tmp_path / "a.jsonl", GOOD, {**GOOD, "output": "b"})
    two = jsonl(tmp_path / "b.jsonl", "", GOOD)
    index = built(tmp_path, one, two, one)
    assert [index.origin(i) for i in range(5)] == [f"{one}:1", f"{one}:2", f"{two}:2", f"{one}:1", f"{one}:2"]
    assert index.header.duplicate_samples == 3
    assert index.digests[0] == index.digests[2] != index.digests[1]
    assert [source.records for source in index.header.sources] == [2, 1, 2]


def test_many_batches_are_one_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"instruction": f"问题 {i}", "output": "答" * (1 + i % 7)} for i in range(50)]
    path = jsonl(tmp_path / "a.jsonl", *rows)
    whole = built(tmp_path, path)
    monkeypatch.setattr(chunks, "CHUNK_RECORDS", 7)
    (tmp_path / "other").mkdir()
    steps: list[tuple[int, int | None]] = []
    run = written_run(tmp_path / "other", [path])
    pieces = ensure_index(
        run, [path], is_builder=True, progress=lambda done, count: steps.append((done, count()))
    )
    assert steps[0] == (7, 50) and steps[-1] == (50, 50)
    assert pieces.address == whole.address
    for name in ("tokens", "trained", "offsets", "digests", "numbers", "lengths"):
        assert np.array_equal(getattr(whole, name), getattr(pieces, name)), name
    assert (np.diff(whole.offsets) == whole.lengths).all()
    for i in range(50):
        assert segment_digests(*whole.sample(i)) == (int(whole.token_digests[i]), int(whole.digests[i]))


def test_digests() -> None:
    ids = np.array([5, -1, 70000], dtype=np.int32)
    tokens, both = segment_digests(ids, [1, 0, 1])
    assert tokens == int.from_bytes(blake2b(ids.astype("<i4").tobytes(), digest_size=8).digest(), "little")
    content = ids.astype("<i4").tobytes() + bytes([0, 0, 1])
    assert both == int.from_bytes(blake2b(content, digest_size=8).digest(), "little")
    assert segment_digests(ids.astype(np.int64), np.array([False, False, True])) == (tokens, both)
    assert segment_digests(ids, [0, 1, 1])[0] == tokens and segment_digests(ids, [0, 1, 1])[1] != both
    assert segment_digests([5, 0, 70000], [1, 0, 1])[0] != tokens
    with pytest.raises(ValueError, match="3 ids but 2"):
        segment_digests(ids, [1, 0])


@pytest.mark.parametrize("chunk_records", [1, 3, 1000])
def test_pretrain_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_records: int) -> None:
    monkeypatch.setattr(chunks, "CHUNK_RECORDS", chunk_records)
    plain = tmp_path / "a.txt"
    plain.write_text("ab\n\ncdefghijklmno\n", encoding="utf-8")
    lines = jsonl(tmp_path / "b.jsonl", {"text": "p"}, {"text": "q\nr"})
    index = built(tmp_path, str(plain), lines, task="pretrain", max_seq_len=5)
    stream = [token for text in ("ab", "cdefghijklmno", "p", "q\nr") for token in (1, *in_bytes(text), 2)]
    blocks = [stream[at : at + 5] for at in range(0, len(stream), 5)]
    assert [index.sample(i)[0].tolist() for i in range(index.num_samples)] == blocks
    assert len(blocks[-1]) == 2
    assert index.trained.all() and index.trained_tokens.tolist() == [len(block) - 1 for block in blocks]
    starts = [str(plain) + ":1"] + [str(plain) + ":3"] * 3 + [lines + ":1", lines + ":2"]
    assert [index.origin(i) for i in range(index.num_samples)] == starts
    assert index.header.template is None and index.header.left_out_tokens == 0


def test_pretrain_last_block_of_one_token_has_no_target(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"text": "abcd"})
    index = built(tmp_path, path, task="pretrain", max_seq_len=5)
    assert (index.num_samples, index.header.left_out_tokens, index.header.empty_samples) == (1, 1, 0)


def test_tiny_stays_itself_when_a_llama_model_lies_beside_it(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = write_tiny_tokenizer(str(tmp_path))
    texts = ["你好\n [INST]  x", "", "</s>", "\x00é\u2028"]
    before = load_encoder("builtin:tiny", str(tmp_path)).encode(texts)
    Path(folder, "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert load_encoder("builtin:tiny", str(tmp_path)).encode(texts) == before
    assert before == [in_bytes(text) for text in texts]
    assert tokenizer.decode(before[0]) == texts[0]
    assert (len(tokenizer), tokenizer.pad_token_id) == (260, 3)


def test_an_added_pad_token_is_no_row_and_may_not_be_trained(tmp_path: Path) -> None:
    folder = write(tmp_path / "padded", JSON["pad added in the file"]())
    path = jsonl(tmp_path / "a.jsonl", GOOD, {**GOOD, "output": "a [PAD] b"})
    index = built(tmp_path, path, tokenizer=folder, bad_samples="skip", special_text="tokens")
    assert [(r.place.line, r.code) for r in index.rejects] == [(2, "CF511")]
    assert index.lengths[0] > 100  # the file's own truncation to 8 tokens is not ours
    assert index.tokens.max() < index.header.tokenizer.vocabulary == 260


@needs_shared
def test_chinese_llama_2_ids_are_sentencepieces_own(tmp_path: Path) -> None:
    import sentencepiece
    from transformers import AutoTokenizer

    oracle = sentencepiece.SentencePieceProcessor(model_file=str(CHINESE / "tokenizer.model"))
    rows = json.loads(ALPACA.read_text(encoding="utf-8"))
    texts = [row["output"] for row in rows] + ["你好", "\n", "[INST]", " a", "  b", "", "中文 mixed\ttab 😀"]
    encoder = load_encoder(str(CHINESE), str(tmp_path))
    wanted = [oracle.encode(text) for text in texts]
    assert encoder.encode(texts) == wanted
    facts = encoder.facts
    assert (facts.vocabulary, facts.eos_id, facts.bos_ids) == (55296, 2, (1,))
    assert encoder.encode(["a</s>b"]) == [oracle.encode("a</s>b")] and 2 not in oracle.encode("a</s>b")
    as_tokens = load_encoder(str(CHINESE), str(tmp_path), special_text="tokens")
    assert as_tokens.encode(["a</s>b"]) == [[263, 2, 289]]  # the way of transformers
    # Why not AutoTokenizer: its conversion ranks pieces that sentencepiece holds equal.
    converted = AutoTokenizer.from_pretrained(CHINESE).backend_tokenizer.encode_batch(
        texts, add_special_tokens=False
    )
    assert sum(fast.ids != ids for fast, ids in zip(converted, wanted, strict=True)) > len(texts) // 4


def test_a_copied_tokenizer_is_the_same_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    copy_tokenizer("builtin:tiny", str(tmp_path), str(tmp_path / "copy"))
    first = load_encoder("builtin:tiny", str(tmp_path))
    second = load_encoder(str(tmp_path / "copy"), str(tmp_path))
    assert first.encode(["你好 a"]) == second.encode(["你好 a"])
    assert (first.facts.bos_ids, first.facts.eos_id) == (second.facts.bos_ids, second.facts.eos_id)


@needs_shared
def test_chinese_llama_2_on_real_instructions(tmp_path: Path) -> None:
    import sentencepiece

    run = written_run(tmp_path, [str(ALPACA)], tokenizer=str(CHINESE), max_seq_len=1024)
    index = ensure_index(run, [str(ALPACA)], is_builder=True)
    rows = json.loads(ALPACA.read_text(encoding="utf-8"))
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(CHINESE / "tokenizer.model"))
    bare = np.array([len(oracle.encode(r["instruction"] + r["input"] + r["output"])) + 1 for r in rows])
    assert abs(np.median(bare) - 114) <= 1 and abs(bare.mean() - 133) <= 1 and bare.max() == 575
    assert index.num_samples == 1000 and index.header.truncated_samples == 0
    for i in (0, 1, 500, 999):
        ids, trained = index.sample(i)
        prompt = [1, *oracle.encode(alpaca2(rows[i]["instruction"], rows[i]["input"]))]
        assert ids.tolist() == [*prompt, *oracle.encode(rows[i]["output"]), 2]
        assert trained.tolist() == [False] * len(prompt) + [True] * (len(ids) - len(prompt))
    assert index.numbers.tolist() == list(range(1, 1001))
    assert index.origin(16) == f"{ALPACA}, record 17"
    assert set(run.config.data.train) == {str(ALPACA)} and index.header.tokenizer.vocabulary == 55296


def test_damage_is_seen_and_built_anew(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", GOOD, GOOD)
    run = written_run(tmp_path, [path])
    index = ensure_index(run, [path], is_builder=True)
    whole = {name: Path(index.folder, name).read_bytes() for name in sorted(os.listdir(index.folder))}
    assert "alive" not in whole
    for name, content in whole.items():
        damaged = Path(index.folder, name)
        damaged.write_bytes(content[:-1]) if content else damaged.unlink()
        if name == "header.json":
            damaged.write_bytes(content[: len(content) // 2])
        with pytest.raises(IndexDamaged):
            open_index(index.folder)
        assert find_index(run, [path]) is None
        again = ensure_index(run, [path], is_builder=True)
        assert again.folder == index.folder
        assert {n: Path(again.folder, n).read_bytes() for n in sorted(os.listdir(again.folder))} == whole
    assert read_header(index.folder) == index.header
    assert not [name for name in os.listdir(run.index_dir) if name.startswith(".building")]


def test_the_second_of_two_builders_keeps_the_firsts_index(tmp_path: Path) -> None:
    """It may be mapped by others already, so it is never put aside."""
    path = jsonl(tmp_path / "a.jsonl", GOOD)
    index = built(tmp_path, path)
    second = waiting.make_building_folder(os.path.dirname(index.folder))
    for name in os.listdir(index.folder):
        Path(second, name).write_bytes(Path(index.folder, name).read_bytes())
    before = os.stat(index.folder).st_ino
    build._publish(second, index.folder, [path])
    assert os.stat(index.folder).st_ino == before


BUILD = """
import sys
from crossfoot.written.run_file import load_run
from crossfoot.index import build, waiting
waiting.PULSE_SECONDS = 0.2

run = load_run(sys.argv[1], [])
files = list(run.config.data.train)
mode = sys.argv[2]
if mode == "hang":
    def hang(*_):
        print("writing", flush=True)
        import time
        time.sleep(600)
    build.IndexWriter.finish = hang
index = build.ensure_index(run, files, is_builder=mode != "wait", patience_seconds=60)
print(index.address, index.header.real_tokens)
"""


def start(run_path: str, mode: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, run_path, mode],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_builders_and_one_waiter_end_with_the_same_index(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", *[{**GOOD, "output": "答" * (1 + i % 40)} for i in range(3000)])
    run = written_run(tmp_path, [path])
    racers = [start(run.path, mode) for mode in ("build", "wait", "build")]
    ends = [racer.communicate(timeout=120) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0], ends
    assert len({out for out, _ in ends}) == 1
    assert set(os.listdir(run.index_dir)) - {"sources.json"} == {"builtin-tiny", ends[0][0].split()[0]}


def test_a_killed_builder_leaves_no_index_and_is_cleaned_up(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", GOOD)
    run = written_run(tmp_path, [path])
    builder = start(run.path, "hang")
    assert builder.stdout is not None and builder.stdout.readline() == "writing\n"
    (left,) = [name for name in os.listdir(run.index_dir) if name.startswith(".building")]
    # While it lives, another builder leaves its folder alone.
    (tmp_path / "b").mkdir()
    other = written_run(tmp_path, [path], max_seq_len=200)
    ensure_index(other, [path], is_builder=True)
    assert left in os.listdir(run.index_dir)
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    assert find_index(written_run(tmp_path, [path]), [path]) is None
    index = ensure_index(written_run(tmp_path, [path]), [path], is_builder=True)
    assert index.num_samples == 1
    assert not [
        name for name in os.listdir(run.index_dir) if name.startswith((".building", f".{index.address}"))
    ]


def test_a_pulse_that_nobody_waits_for_goes_with_the_next_index(tmp_path: Path) -> None:
    run = written_run(tmp_path, [jsonl(tmp_path / "a.jsonl", GOOD)])
    index_dir = Path(run.index_dir)
    index_dir.mkdir(parents=True)
    old, fresh, mine = (index_dir / name for name in (".0123.pulse", ".4567.pulse", "my.pulse"))
    for file in (old, fresh, mine):
        file.write_text("{}")
    os.utime(old, (0, 0))
    os.utime(mine, (0, 0))
    ensure_index(run, [str(tmp_path / "a.jsonl")], is_builder=True)
    assert (old.exists(), fresh.exists(), mine.exists()) == (False, True, True)


def test_a_folder_of_another_machine_is_kept_until_its_pulse_stops(tmp_path: Path) -> None:
    for name, age in (("fresh", 10.0), ("stale", 700.0)):
        folder = tmp_path / f"{waiting.TEMPORARY}{name}-1-x"
        folder.mkdir()
        (folder / waiting.ALIVE).touch()
        os.utime(folder / waiting.ALIVE, (time.time() - age,) * 2)
    waiting.make_building_folder(str(tmp_path))
    assert (tmp_path / f"{waiting.TEMPORARY}fresh-1-x").exists()
    assert not (tmp_path / f"{waiting.TEMPORARY}stale-1-x").exists()


def test_a_waiter_gives_up_on_silence(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", GOOD)
    with pytest.raises(Refused) as refused:
        ensure_index(written_run(tmp_path, [path]), [path], is_builder=False, patience_seconds=0.3)
    (finding,) = refused.value.findings
    assert finding.code == "CF530" and "no builder has begun" in finding.label


def test_a_pulse_renews_a_waiters_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute passes with every look, and the builder shows that it lives as often."""
    now = [0.0]
    pulse = waiting.Pulse(str(tmp_path), "abc", str(tmp_path))

    def sleep(seconds: float) -> None:
        now[0] += 60.0
        pulse._beat("building")

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(waiting, "time", clock)
    with pulse:
        assert waiting.wait_while_building(str(tmp_path), "abc", lambda: now[0] > 600.0, 90.0) is None
        clock.sleep = lambda seconds: now.append(now.pop() + 60.0)
        told = waiting.wait_while_building(str(tmp_path), "abc", lambda: False, 90.0)
    assert told is not None and "for 90 seconds" in told


def test_a_waiter_hears_of_a_refusal_at_once_but_not_of_an_old_one(tmp_path: Path) -> None:
    def refuse() -> None:
        with pytest.raises(KeyError), waiting.Pulse(str(tmp_path), "abc", str(tmp_path)):
            raise KeyError

    refuse()
    old = waiting.wait_while_building(str(tmp_path), "abc", lambda: False, 0.3)
    assert old is not None and "0 seconds" in old
    looks = []

    def is_there() -> bool:
        if not looks:  # it waits already
            refuse()
        looks.append(False)
        return False

    why = waiting.wait_while_building(str(tmp_path), "abc", is_there, 600)
    assert why is not None and "gave up" in why and len(looks) == 1
