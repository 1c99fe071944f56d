"""What a path names, for every verb alike: a run, an adapter with those before it and its base, a model."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from crossfoot.cli import main
from crossfoot.findings.finding import Refused
from crossfoot.model_source.source import Named, find_model, find_named
from crossfoot.written.adapter_folder import open_adapter


def model(folder: Path, **values: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **values}), encoding="utf-8")
    return folder


def adapter(folder: Path, base: str | Path, before: Path | None = None) -> Path:
    folder.mkdir(parents=True)
    values = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(values), encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(len(b"{}").to_bytes(8, "little") + b"{}")
    if before is not None:
        noted = {"merged_adapter": str(before), **open_adapter(str(before)).identity}
        (folder / "base.json").write_text(json.dumps(noted), encoding="utf-8")
    return folder


def refused(path: Path | str, does: str = "ask", step: int | None = None) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        find_model(str(path), does, step=step)
    (finding,) = caught.value.findings
    assert caught.value.exit_code == (1 if finding.code == "CF772" else 2)
    return finding.code, " ".join((finding.title, *finding.notes, *finding.helps))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_kinds(here: Path) -> None:
    run = here / "runs" / "demo"
    (run / "attempt-001").mkdir(parents=True)
    adapter(run / "adapter", "base")
    model(run / "model")
    model(here / "adapter")
    named = {path: find_named(path, "ask") for path in ("runs/demo", "runs/demo/adapter", "runs/demo/model/")}
    assert named == {
        "runs/demo": Named("run", "runs/demo", "runs/demo"),
        "runs/demo/adapter": Named("adapter", "runs/demo/adapter", "runs/demo"),
        "runs/demo/model/": Named("model", "runs/demo/model/", "runs/demo"),
    }
    assert find_named("adapter", "ask") == Named("model", "adapter")
    os.chdir(run)
    assert find_named("adapter", "ask").run_dir == "." == find_named(".", "ask").run_dir
    assert find_named("../demo/adapter", "ask").run_dir == "../demo"


@pytest.mark.parametrize("does", ["ask", "merge", "serve"])
def test_what_names_nothing_is_refused_alike(here: Path, does: str) -> None:
    (here / "empty").mkdir()
    (here / "file").write_text("", encoding="utf-8")
    for path, says in {
        "empty": "has neither config.json nor adapter_config.json",
        "file": "is a file, not a folder",
        "no/such/folder": "is not there",
        "some-org/some-model": "is no folder here, and not in the cache of a hub",
        "builtin:tiny": "is not there",
    }.items():
        code, words = refused(path, does)
        assert code == "CF759" and f"nothing to {does}: {path} {says}" in words
        assert "name the folder of a run, of an adapter" in words
    assert "leave out --step" in refused(model(here / "model"), does, step=3)[1]


def test_the_run_that_is_meant_is_named(here: Path) -> None:
    checkpoint = here / "runs" / "demo" / "attempt-001" / "checkpoints"
    checkpoint.mkdir(parents=True)
    adapter(here / "runs" / "demo" / "adapter", "base")
    assert "name the run itself: runs/demo" in refused("runs/demo/attempt-001")[1]
    assert "name the run itself: runs/demo" in refused("runs/demo/adapter", step=3)[1]
    assert "the nearest name: runs/demo" in refused("runs/demmo")[1]


def test_a_chain_of_adapters_on_its_base(here: Path) -> None:
    base = model(here / "base", torch_dtype="bfloat16")
    first = adapter(here / "first", base)
    second = adapter(here / "second", base, first)
    source = find_model(str(adapter(here / "third", base, second)), "ask")
    assert [one.path for one in source.adapters] == [str(first), str(second), str(here / "third")]
    assert (source.base, source.dtype, source.trained_dtype) == (str(base), "bfloat16", None)
    assert source.tokenizer == str(base) and source.is_adapted
    (here / "third" / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert find_model("third", "ask").tokenizer == "third"
    assert not find_model("base", "ask").is_adapted


def test_an_adapter_below_that_has_changed_is_refused_by_every_verb(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = model(here / "base")
    first = adapter(here / "first", base)
    adapter(here / "second", base, first)
    (first / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}', encoding="utf-8")
    for words in (["generate", "second", "--prompts", "Hi?"], ["chat", "second"], ["merge", "second", "out"]):
        assert main(words) == 1
        told = capsys.readouterr()
        assert "error[CF772]: the adapter second does not belong" in told.out + told.err
        assert "first, which was merged into its base before, has changed" in told.out + told.err
    assert main(["serve", "second", "--with", "vllm"]) == 1
    assert "CF772" in capsys.readouterr().out


def test_a_base_is_found_where_the_adapter_lies(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(here / "project" / "models" / "base")
    one = adapter(here / "project" / "runs" / "demo" / "adapter", "models/base")
    assert find_model(str(one), "ask").base == str(here / "project" / "models" / "base")
    model(here / "project" / "runs" / "models" / "base")
    code, words = refused(one)
    assert code == "CF769" and "trained on models/base" in words and "--base FOLDER" in words
    both = [str(here / "project" / place / "models" / "base") for place in ("runs", ".")]
    assert f"it may be {both[0]} or {Path(both[1])}" in words
    monkeypatch.chdir(here / "project")
    assert find_model(str(one), "ask").base == "models/base"
    assert find_model(str(one), "ask", base="runs/models/base").base == "runs/models/base"


def test_an_adapter_stands_without_the_papers_of_its_run(here: Path) -> None:
    (here / "demo" / "attempt-001").mkdir(parents=True)
    one = adapter(here / "demo" / "adapter", model(here / "base"))
    assert find_model(str(one), "merge").run is None
    assert refused("demo", "merge")[0] == "CF706"


@pytest.mark.parametrize("base", ["", "/gone", "gone", "some-org/gone"])
def test_a_base_that_is_not_here(here: Path, base: str) -> None:
    one = adapter(here / "an adapter", base)
    code, words = refused(one, "merge")
    assert code == "CF769" and (base or "does not say what it was trained on") in words
    assert f"crossfoot merge '{one}' OUT --base FOLDER" in refused(one, "serve")[1]
