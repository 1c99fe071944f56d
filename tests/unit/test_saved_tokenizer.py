"""What lies beside a saved adapter or model: the template and the end token that were trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from crossfoot.data.saved_tokenizer import save_tokenizer, with_end
from crossfoot.index.build import ensure_index
from index_cases import GOOD, alpaca2, jsonl, written_run
from tokenizer_cases import JSON, LLAMA, train_sentencepiece, write

CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}{% endfor %}"


def saved(tmp_path: Path, tokenizer: str = "builtin:tiny", **data: Any) -> Path:
    rows = [{**GOOD, "text": "a"}]
    path = jsonl(tmp_path / "a.jsonl", *rows)
    run = written_run(tmp_path, [path], tokenizer=tokenizer, **data)
    ensure_index(run, [path], is_builder=True)
    (destination := tmp_path / "saved").mkdir(exist_ok=True)
    save_tokenizer(run.config, run.index_dir, str(destination))
    return destination


def with_chat(tmp_path: Path, **files: str) -> str:
    settings = json.loads(JSON["tiny"]()["tokenizer_config.json"])
    written = {**JSON["tiny"](), "tokenizer_config.json": json.dumps({**settings, "chat_template": CHATML})}
    return write(tmp_path / "chat", {**written, **files})


@pytest.mark.parametrize("name", sorted(set(JSON) - {"special tokens are split"}))
def test_a_whole_conversation_has_the_trained_ids(tmp_path: Path, name: str) -> None:
    """Whether or not the tokenizer puts a blank before an answer that it is given for itself."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(saved(tmp_path, write(tmp_path / "own", JSON[name]())))
    run = written_run(tmp_path, [str(tmp_path / "a.jsonl")], tokenizer=str(tmp_path / "own"))
    ids, _ = ensure_index(run, run.config.data.train, is_builder=True).sample(0)
    told = [
        {"role": "user", "content": GOOD["instruction"]},
        {"role": "assistant", "content": GOOD["output"]},
    ]
    assert tokenizer.apply_chat_template(told, return_dict=False) == ids.tolist()


def test_sentencepiece_has_a_blank_of_its_own(tmp_path: Path) -> None:
    own = Path(write(tmp_path / "own", {"tokenizer_config.json": json.dumps(LLAMA)}))
    shutil.copyfile(train_sentencepiece(tmp_path), own / "tokenizer.model")
    template = (saved(tmp_path, str(own)) / "chat_template.jinja").read_text(encoding="utf-8")
    assert "' ' + message['content']" in template


@pytest.mark.parametrize("name", ["tiny", "template of the end"])
def test_the_saved_tokenizer_asks_as_was_trained(tmp_path: Path, name: str) -> None:
    """Token for token, also where the tokenizer puts no begin token before a text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(saved(tmp_path, write(tmp_path / "own", JSON[name]())))
    run = written_run(tmp_path, [str(tmp_path / "a.jsonl")], tokenizer=str(tmp_path / "own"))
    ids, trained = ensure_index(run, run.config.data.train, is_builder=True).sample(0)
    asked = [{"role": "user", "content": GOOD["instruction"]}]
    found = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    assert found == ids[~trained].tolist()
    assert (found[0] == 1) is (name == "tiny")
    answered = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": "x"}], tokenize=False)
    assert answered.endswith(" [/INST]x</s>") and answered.count(alpaca2(GOOD["instruction"], "")) == 1
    told = [{"role": "system", "content": "Be brief."}, *asked, {"role": "assistant", "content": "x"}, *asked]
    text = tokenizer.apply_chat_template(told, tokenize=False)
    assert text.count("<<SYS>>\nBe brief.\n<</SYS>>") == 1 and text.count("[INST]") == 2


def test_another_chat_template_is_not_carried_on(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = saved(tmp_path, with_chat(tmp_path))
    assert "im_start" not in (folder / "tokenizer_config.json").read_text()
    assert "[INST]" in AutoTokenizer.from_pretrained(folder).chat_template


def test_pretraining_leaves_the_chat_template(tmp_path: Path) -> None:
    own = with_chat(tmp_path, **{"chat_template.jinja": "x"})
    folder = saved(tmp_path, own, task="pretrain")
    for name in ("tokenizer_config.json", "chat_template.jinja", "tokenizer.json"):
        assert (folder / name).read_bytes() == Path(own, name).read_bytes()


def test_files_that_say_nothing_of_it_are_copied_byte_for_byte(tmp_path: Path) -> None:
    own = write(tmp_path / "own", JSON["tiny"]())
    folder = saved(tmp_path, own)
    for name in ("tokenizer_config.json", "tokenizer.json"):
        assert (folder / name).read_bytes() == Path(own, name).read_bytes()


def test_a_saved_model_ends_with_the_token_that_was_trained(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "config.json").write_text(json.dumps({"eos_token_id": 99, "x": 1}))
    (tmp_path / "saved" / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    before = (tmp_path / "saved" / "generation_config.json").read_bytes()
    folder = saved(tmp_path)
    assert json.loads((folder / "config.json").read_text()) == {"eos_token_id": [2, 99], "x": 1}
    assert (folder / "generation_config.json").read_bytes() == before


def test_a_tokenizer_that_nobody_can_read_any_more_is_copied(tmp_path: Path) -> None:
    own = write(tmp_path / "own", JSON["tiny"]())
    run = written_run(tmp_path, ["a.jsonl"], tokenizer=own)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        Path(own, name).write_text("{")
    (tmp_path / "saved").mkdir()
    save_tokenizer(run.config, run.index_dir, str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "tokenizer.json").read_text() == "{"
    assert "[INST]" in (tmp_path / "saved" / "chat_template.jinja").read_text()


@pytest.mark.parametrize(
    ("ids", "wanted"), [(2, 2), (None, 2), (99, [2, 99]), ([1, 2], [1, 2]), ([1], [2, 1])]
)
def test_with_end(ids: Any, wanted: Any) -> None:
    assert with_end(ids, 2) == wanted
