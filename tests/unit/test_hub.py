"""Models and tokenizers of a hub: from the cache of this machine alone, and what is said where they are not
there. The network is out of reach.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from crossfoot.cli import main
from crossfoot.environment.world import read_world
from crossfoot.findings.finding import Finding, Refused
from crossfoot.index.build import ensure_index
from crossfoot.planning.checking import find_all
from crossfoot.planning.lock import make_lock
from crossfoot.planning.plan import RunPlan
from crossfoot.planning.prepare import plan_checked, read_and_check
from crossfoot.rendezvous.preflight import disagreements
from crossfoot.rendezvous.rank_info import RankInfo, model_facts
from crossfoot.runs.changing import changes
from crossfoot.training.rank_job import TrainOptions, make_rank_job
from crossfoot.written.hub import hub_model, loadable
from crossfoot.written.run_file import load_run
from support.hub_server import hub_of
from support.launching import environment, short_tokenizer, write_samples
from support.model_folders import write_model

CONFIG = """\
run: {name: demo}
model: {path: owner/name, dtype: float32}
data: {train: [a.jsonl]}
batch: {micro_batch_size: 2, grad_accum_steps: 2}
cluster: {num_nodes: 1, gpus_per_node: 1}
lr: {reference: 1e-4}
train: {max_steps: 2}
"""
COMMITS = ("a" * 40, "b" * 40)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of Hugging Face, empty; ModelScope's lies beside it."""

    def nowhere(*_: object) -> NoReturn:
        raise AssertionError("somebody asks the network")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket.socket, "connect", nowhere)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
    Path("run.yaml").write_text(CONFIG)
    write_samples(Path("a.jsonl"), 20)
    return tmp_path / "hf"


def whole_model(folder: Path) -> Path:
    """With a tokenizer, as hubs have it."""
    shutil.copytree(short_tokenizer(Path()), folder, dirs_exist_ok=True)
    return write_model(folder, vocab_size=400)


def fetched(cache: Path, commit: str = COMMITS[0]) -> Path:
    """owner/name as a download leaves it, this commit being its newest."""
    model = cache / "models--owner--name"
    (model / "refs").mkdir(parents=True, exist_ok=True)
    (model / "refs" / "main").write_text(commit)
    return whole_model(model / "snapshots" / commit)


def refusal(*words: str) -> Finding:
    with pytest.raises(Refused) as refused:
        make_rank_job("run.yaml", words, read_world({}), TrainOptions())
    (finding,) = refused.value.findings
    return finding


def locked(commit: str) -> RunPlan:
    run = load_run("run.yaml")
    index = ensure_index(run, ["a.jsonl"], is_builder=True)
    plan = plan_checked(read_and_check("run.yaml", []), index)
    assert plan.commits == {"model.path": commit}
    return plan


@pytest.mark.parametrize(
    "words, what, command",
    [
        ((), "the model owner/name", "hf download owner/name"),
        (("model.path=gpt2",), "the model gpt2", "hf download gpt2"),
        (("model.path=builtin:tiny", "tokenizer.path=a/b"), "the tokenizer a/b", "hf download a/b"),
        (
            ("model.path=modelscope:Qwen/Qwen3-0.6B",),
            "the model modelscope:Qwen/Qwen3-0.6B",
            "modelscope download --model Qwen/Qwen3-0.6B",
        ),
    ],
)
def test_what_is_not_here_is_refused_with_the_command_that_fetches(
    words: tuple[str, ...], what: str, command: str
) -> None:
    finding = refusal(*words)
    assert (finding.code, finding.severity) == ("CF060", "error")
    assert finding.title == f"{what} is not in the cache of this machine"
    assert finding.helps[0].endswith(f": {command}")
    (warned,) = find_all("run.yaml", words)
    assert (warned.code, warned.severity, warned.title) == ("CF060", "warning", finding.title)


def test_plan_check_and_index_say_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    for verb, code, severity in (("plan", 0, "warning"), ("check", 0, "warning"), ("index", 2, "error")):
        assert main([verb, "run.yaml"]) == code
        said = capsys.readouterr().out
        assert f"{severity}[CF060]" in said and said.count("[CF") == 1


def test_the_command_that_is_told_fetches_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(cache.parent)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    command = shlex.split(refusal().helps[0].partition(": ")[2])
    with hub_of("owner/name", whole_model(Path("there")), COMMITS[0]) as (address, asked):
        more = {"HF_ENDPOINT": address, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "0"}
        subprocess.run(command, env=environment(**more), check=True, capture_output=True)
        assert asked
        asked.clear()
        monkeypatch.setenv("HF_ENDPOINT", address)
        assert find_all("run.yaml") == ()
        assert make_rank_job("run.yaml", (), read_world({}), TrainOptions()).steps == 2
        assert asked == [], "a run asks no hub"


def test_files_that_were_not_fetched(cache: Path) -> None:
    (fetched(cache) / "model.safetensors").unlink()
    finding = refusal()
    assert finding.code == "CF542" and finding.helps[0].endswith(": hf download owner/name")


def test_the_commit_is_told_planned_and_compared(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetched(cache)
    assert find_all("run.yaml") == ()
    before = make_lock(locked(COMMITS[0]))
    assert main(["plan", "run.yaml"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert f"commit of the model {COMMITS[0][:12]} model.path run.yaml:2" in page
    ours = model_facts(load_run("run.yaml"))
    fetched(cache, COMMITS[1])
    theirs = model_facts(load_run("run.yaml"))
    names = {name for name in ours if ours[name] != theirs[name]}
    assert names == {"commit of model.path"}, "the files are the same"
    now = make_lock(locked(COMMITS[1]))
    assert before["sha256"] != now["sha256"]
    (change,) = changes(before, now)
    assert (change.key, change.before, change.now) == (
        "model.path", "owner/name (aaaaaaa)", "owner/name (bbbbbbb)",
    )  # fmt: skip


def test_a_node_without_it_is_named() -> None:
    missing = refusal()
    ranks = [
        RankInfo(
            rank=rank,
            world_size=4,
            local_rank=rank % 2,
            local_world_size=2,
            node_rank=rank // 2,
            num_nodes=2,
            launcher="torchrun",
            host=f"node{rank // 2 + 1}",
            pid=rank,
            parts={"model": {} if rank > 1 else {"config.json": "sha256 1"}},
            refused=(missing,) if rank > 1 else (),
        )
        for rank in range(4)
    ]
    (finding,) = disagreements(ranks)
    assert finding.notes == (*missing.notes, "so it is on node2")


@pytest.mark.parametrize(
    "folder",
    [
        "models/Qwen--Qwen3-0.6B/snapshots/master",
        *("models/Qwen/Qwen3-0___6B", "hub/models/Qwen/Qwen3-0___6B"),
        *("hub/Qwen/Qwen3-0___6B", "Qwen/Qwen3-0___6B"),
    ],
)
def test_a_model_of_modelscope_wherever_its_package_puts_it(folder: str) -> None:
    path = "modelscope:Qwen/Qwen3-0.6B"
    whole_model(Path("ms") / folder)
    assert find_all("run.yaml", [f"model.path={path}"]) == ()
    assert loadable(path) == os.path.abspath(Path("ms") / folder)


@pytest.mark.parametrize(
    "path", ["builtin:tiny", "./a", "a/b/c", "~/a", "a b/c", "模型/甲", "modelscope:name", "other:a/b", "a/"]
)
def test_what_is_no_id_of_a_hub(path: str) -> None:
    assert hub_model(path) is None


def test_a_folder_of_that_name_comes_first() -> None:
    whole_model(Path("owner/name"))
    assert hub_model("owner/name") is None
    assert find_all("run.yaml") == ()


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch harmed",)


def test_a_pickle_of_more_than_tensors_is_refused_and_not_run(cache: Path) -> None:
    import torch

    folder = fetched(cache)
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": torch.zeros(1, 1), "x": Harmful()}, folder / "pytorch_model.bin")
    finding = refusal()
    assert finding.code == "CF542" and not Path("harmed").exists()
    assert finding.notes[0].startswith(
        "pytorch_model.bin is a pickle that holds posix.system, not tensors alone"
    )


def test_pickled_weights_are_a_warning(cache: Path) -> None:
    import torch

    folder = fetched(cache)
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": torch.zeros(1, 1)}, folder / "pytorch_model.bin")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "model_type": "llama"}))
    found = {finding.code: finding for finding in find_all("run.yaml")}
    pickled = found["CF061"]
    assert (pickled.severity, "pytorch_model.bin" in pickled.title) == ("warning", True)
    program = shlex.split(pickled.helps[0].partition(": ")[2])[-1]
    compile(program, "help", "exec")
    assert 'from_pretrained("owner/name"' in program
