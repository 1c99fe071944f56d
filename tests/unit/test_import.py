"""`crossfoot import`: recipes of other trainers become run configs whose batch is the original's formula;
every value says where it comes from, and nothing is passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

import foreign_recipes
from crossfoot.cli import main
from crossfoot.findings.finding import Refused
from crossfoot.importing.carried import NOT_YET
from crossfoot.importing.departures import departures
from crossfoot.importing.reading import read_recipe
from crossfoot.importing.recipe import World
from crossfoot.importing.stacks import STACKS
from crossfoot.importing.verb import Imported, imported_recipe, world_of
from crossfoot.planning.checking import find_all
from crossfoot.planning.prepare import plan_written
from crossfoot.written.known_keys import choices, is_known
from crossfoot.written.run_file import load_run
from support.launching import ROOT

SAMPLES = 205
ZERO2 = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": 1.0,
    "zero_optimization": {"stage": 2},
}
MODEL_AND_DATA = ("model.path=builtin:tiny", "data.train=[data/reviews.json]")
RECIPES: Mapping[str, tuple[str, tuple[str, ...], World, int]] = {
    "run_sft.sh": (foreign_recipes.SFT, (), World(), 1 * 8 * 1 * 1),
    "run_pt.sh": (foreign_recipes.PT, (), World(), 1 * 8 * 1 * 1),
    "llama_factory.yaml": (foreign_recipes.LLAMA_FACTORY, (), world_of(1, 8), 2 * 8 * 8),
    "axolotl.yaml": (foreign_recipes.AXOLOTL, (), world_of(2, 4), 2 * 4 * 8),
    "arguments.json": (foreign_recipes.ARGUMENTS, MODEL_AND_DATA, world_of(None, 4), 4 * 8 * 4),
    "accelerate.sh": (foreign_recipes.ACCELERATE, (), World(), 2 * 16 * 4),
}
"""File -> its text, words behind it, what --nodes and --gpus say, and its batch by the trainer's formula."""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the recipes, and the files that they name."""
    monkeypatch.chdir(tmp_path)
    for name, (text, *_) in RECIPES.items():
        Path(name).write_text(text, encoding="utf-8")
    records = [{"instruction": f"问题 {n}", "input": "", "output": f"答案 {n}"} for n in range(SAMPLES)]
    for folder in ("data", "corpus"):
        Path(folder).mkdir()
    Path("data/reviews.json").write_text(json.dumps(records), encoding="utf-8")
    Path("valid.json").write_text(json.dumps(records[:5]), encoding="utf-8")
    Path("corpus/a.txt").write_text("中文文本 " * 2_000 + "\n", encoding="utf-8")
    Path("ds_zero2_no_offload.json").write_text(json.dumps(ZERO2), encoding="utf-8")
    return tmp_path


def imported(name: str, *words: str) -> Imported:
    _, given, world, _ = RECIPES[name]
    return imported_recipe(name, (*given, *words), world, None)


@pytest.mark.parametrize("name", RECIPES)
def test_the_planned_batch_is_that_of_the_original_formula(name: str) -> None:
    Path("my.yaml").write_text(imported(name).text, encoding="utf-8")
    plan, findings = plan_written("my.yaml", ())
    assert plan.batch.global_batch_size == plan.batch.capacity_samples == RECIPES[name][3]
    assert not [each for each in findings if each.severity == "error"]
    assert main(["check", "my.yaml"]) == 0


@pytest.mark.parametrize("name", RECIPES)
def test_no_key_is_passed_over_and_every_value_says_where_it_comes_from(name: str) -> None:
    made = imported(name)
    told = {left.given.key for left in made.carried.left}
    told |= {entry.given.key for entry in made.carried.entries.values() if entry.given is not None}
    assert set(read_recipe(name).given) - told == set()
    values = [line for line in made.text.splitlines() if re.match(r" *\w+: \S", line)]
    assert len(values) > 15
    for line in values:
        assert re.search(
            rf"  # ({re.escape(name)}:\d+ |default of |--|command line|not said|the name|run_clm)", line
        ), line
    lines = Path(name).read_text(encoding="utf-8").splitlines()
    for entry in made.carried.entries.values():
        if entry.given is not None and entry.given.number is not None:
            written = str(entry.given.value)
            assert written in lines[entry.given.place.line - 1], f"{entry.given.key} is not written there"


def test_the_recipe_of_the_sft_script() -> None:
    Path("my.yaml").write_text(imported("run_sft.sh").text, encoding="utf-8")
    run = load_run("my.yaml").config
    assert (run.lr.reference, run.lr.schedule, run.lr.warmup_fraction) == (1e-4, "cosine", 0.03)
    assert run.lora is not None
    assert (run.lora.r, run.lora.alpha, run.lora.dropout) == (64, 128, 0.05)
    attention, mlp = ["q_proj", "v_proj", "k_proj", "o_proj"], ["gate_proj", "down_proj", "up_proj"]
    assert run.lora.target_modules == [*attention, *mlp]
    assert run.lora.modules_to_save == ["embed_tokens", "lm_head"]
    assert run.data.train == ["data/reviews.json"] and run.data.validation == ["valid.json"]
    assert (run.data.task, run.data.max_seq_len) == ("sft", 512)
    assert (run.checkpoint.every_steps, run.checkpoint.keep, run.validation.every_steps) == (200, 3, 100)
    assert run.deepspeed == "ds_zero2_no_offload.json" and run.run.dir == "output/sft"


def test_the_recipe_of_the_pre_training_script() -> None:
    Path("my.yaml").write_text(imported("run_pt.sh").text, encoding="utf-8")
    run = load_run("my.yaml").config
    assert (run.lr.reference, run.lr.warmup_fraction, run.optimizer.weight_decay) == (2e-4, 0.05, 0.01)
    assert (run.data.task, run.data.train, run.run.seed) == ("pretrain", ["corpus/a.txt"], 1337)


def test_what_a_file_leaves_out_is_what_its_trainer_takes() -> None:
    Path("my.yaml").write_text("stage: sft\nmodel_name_or_path: m\ndataset: a\n", encoding="utf-8")
    text = imported_recipe("my.yaml", (), World(), None).text
    for line in (
        "max_seq_len: 2048",
        "micro_batch_size: 8",
        "reference: 5e-5",
        "schedule: linear",
        "alpha: 16",
    ):
        assert re.search(rf"{line} +# default of LLaMA-Factory 0.9.5", text), line


def test_defaults_and_values_that_are_not_there_yet_lead_to_known_keys() -> None:
    for stack in STACKS:
        assert all(is_known(tuple(path.split("."))) for path in stack.defaults), stack.name
    for (path, _), (nearest, _) in NOT_YET.items():
        assert nearest in choices(path), path


@pytest.mark.parametrize("folder", ["20240501", "a b", "a: b", "#1", "1e-4", "*a", "结果"])
def test_a_path_stays_a_path(folder: str) -> None:
    given = {
        "model_name_or_path": folder,
        "train_file": "a.json",
        "output_dir": folder,
        "num_train_epochs": 1,
    }
    Path("a.json").write_text(json.dumps(given), encoding="utf-8")
    Path("my.yaml").write_text(imported_recipe("a.json", (), World(), None).text, encoding="utf-8")
    run = load_run("my.yaml").config
    assert (run.model.path, run.run.dir) == (folder, folder)


def text_of(given: str) -> str:
    """The run config of a YAML."""
    Path("some.yaml").write_text(given, encoding="utf-8")
    return imported_recipe("some.yaml", MODEL_AND_DATA, World(), None).text


def test_a_default_in_place_of_a_value_says_so() -> None:
    text = text_of("stage: sft\nlr_scheduler_type: reduce_lr_on_plateau\n")
    assert re.search(r"schedule: linear +# some.yaml:2 lr_scheduler_type not carried over; default of", text)
    Path("run.sh").write_text(
        "torchrun f.py --model_name_or_path m --train_file a --learning_rate $1 --num_train_epochs 1\n",
        encoding="utf-8",
    )
    text = imported_recipe("run.sh", (), World(), None).text
    assert re.search(r"reference: 5e-5 +# run.sh:1 learning_rate not carried over; default of", text)


@pytest.mark.parametrize(
    ("given", "validation"),
    [
        ("stage: sft\nval_size: 0.1\n", "0.1"),
        ("stage: sft\nval_size: 200\n", "200"),
        ("stage: sft\nval_size: 0.0\n", None),
        ("stage: sft\nval_size: 0.1\neval_dataset: data/reviews.json\n", r"\["),
        ("base_model: m\nval_set_size: 0.05\n", "0.05"),
        ("num_train_epochs: 1\nvalidation_split_percentage: 5\n", "0.05"),
    ],
)
def test_a_part_split_off_for_validation_is_held_out(given: str, validation: str | None) -> None:
    text = text_of(given)
    assert (
        re.search(rf"  validation: {validation or 'never'}", text)
        if validation
        else "validation:" not in text
    )


def test_axolotl_leaves_out_what_is_long_and_so_does_its_import() -> None:
    assert re.search(r"over_long: drop +# default of axolotl", text_of("base_model: m\n"))
    strategy = "base_model: m\nexcess_length_strategy: truncate\n"
    assert re.search(r"over_long: truncate +# some.yaml:2 excess_length_strategy", text_of(strategy))
    assert "over_long" not in text_of("stage: sft\n")


def test_adapters_are_trained_where_they_are_asked_for() -> None:
    assert "lora:" not in text_of("base_model: m\nadapter:\nlora_r:\n")
    assert "lora:" not in text_of("base_model: m\nlora_r: 8\n")
    assert "lora:" not in text_of("stage: sft\nfinetuning_type: full\nlora_rank: 8\n")
    assert "lora:" not in text_of("num_train_epochs: 1\n")
    assert "target_modules: [q_proj, v_proj]  " in text_of("num_train_epochs: 1\nlora_r: 8\n")
    seven = "[q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]"
    assert f"target_modules: {seven}" in text_of("base_model: m\nadapter: lora\nlora_target_linear: true\n")
    assert f"target_modules: {seven}" in text_of("stage: sft\nlora_target: all\n")


def left_of(made: Imported, trains: bool = True) -> set[str]:
    return {left.given.key for left in made.carried.left if left.trains is trains}


def test_what_would_train_otherwise_is_told_apart() -> None:
    made = imported("axolotl.yaml")
    assert left_of(made) == {"optimizer", "special_tokens", "datasets.type"}
    assert {"tf32", "logging_steps", "adapter", "flash_attention"} <= left_of(made, trains=False)


def departing(
    name: str, text: str = "", world: World | None = None, samples: int | None = SAMPLES
) -> dict[str, str]:
    """What the recipe departs in, by name."""
    base, words, given, _ = RECIPES[name]
    Path(name).write_text(base + text, encoding="utf-8")
    made = imported_recipe(name, words, world or given, samples)
    return {each.name: each.text for each in departures(made.case)}


def test_repeated_samples_are_counted() -> None:
    assert departing("accelerate.sh")["repeated samples"].startswith(
        "3 samples of each epoch are trained twice"
    )
    assert "repeated samples" not in departing("accelerate.sh", samples=208)
    assert "repeated samples" not in departing("run_sft.sh")
    assert departing("accelerate.sh", samples=None)["repeated samples"].startswith("3 samples")
    Path("data/reviews.json").unlink()
    assert departing("accelerate.sh", samples=None)["repeated samples"].startswith("up to 7 samples")


def test_dropped_tails_are_counted() -> None:
    found = departing("arguments.json")
    assert found["dropped tail"].startswith("13 samples of each epoch are not trained")
    assert "repeated samples" not in found and "order by length" in found


def test_floored_steps_are_counted() -> None:
    found = departing("run_sft.sh")
    assert found["floored steps"] == (
        "an epoch has 25.62 steps and counts 25: its last 5 samples make no step in that epoch"
    )
    assert "warm-up on floored steps" not in found
    found = departing("run_sft.sh", samples=(4 * 8 * 25) + 1)
    assert found["warm-up on floored steps"] == "0.03 of 100 steps is 3 steps, and 4 here"
    assert "floored steps" not in departing("run_sft.sh", samples=200)
    assert "77 samples of an epoch make none" in departing("accelerate.sh")["floored steps"]


def test_the_scripts_of_the_recipe_depart_as_they_are_known_to() -> None:
    found = departing("run_sft.sh")
    assert {"mean of means", "overflows counted as steps", "another seed every time"} <= set(found)
    found = departing("run_pt.sh")
    assert "0.1 %" in found["another split"] and "rest of every 1,000 documents" in found


def test_axolotl_ends_early_and_splits_by_chance() -> None:
    found = departing("axolotl.yaml", world=world_of(1, 1))
    assert found["steps of all epochs in one sum"].startswith("the run ends after 97 steps, 3 steps before")
    assert "another split" in found and "long samples left out" not in found
    packed = departing("axolotl.yaml", "neat_packing: true\n", world_of(1, 1))
    assert "packing changes the batch" in packed and "steps of all epochs in one sum" not in packed


def test_the_gpus_of_one_process_multiply_the_batch() -> None:
    options = "--model_name_or_path m --train_file a.json --num_train_epochs 1"
    Path("one.sh").write_text(f"CUDA_VISIBLE_DEVICES=0,1,2 python finetune.py {options}\n", encoding="utf-8")
    made = imported_recipe("one.sh", (), World(), None)
    assert made.case.batch.per_step == 8 * 1 * 3
    assert "DataParallel" in {each.name for each in departures(made.case)}


def test_a_constant_rate_has_no_warm_up_there() -> None:
    text = foreign_recipes.ACCELERATE.replace("lr_scheduler_type linear", "lr_scheduler_type constant")
    Path("constant.sh").write_text(text, encoding="utf-8")
    made = imported_recipe("constant.sh", (), World(), None)
    assert "lr.warmup_fraction" not in made.carried.entries
    assert "no warm-up" in {each.name for each in departures(made.case)}


@pytest.mark.parametrize(
    ("command", "batch"),
    [
        ("FORCE_TORCHRUN=1 NPROC_PER_NODE=4 llamafactory-cli train llama_factory.yaml", 2 * 8 * 4),
        (
            "NPROC_PER_NODE=2 llamafactory-cli train llama_factory.yaml gradient_accumulation_steps=3",
            2 * 3 * 2,
        ),
        ("axolotl train axolotl.yaml --micro-batch-size 3", 3 * 4),
        ("accelerate launch --num_processes 2 -m axolotl.cli.train axolotl.yaml", 2 * 4 * 2),
        (
            "deepspeed --num_gpus 8 src/train_bash.py --stage sft --model_name_or_path m --dataset a",
            8 * 1 * 8,
        ),
        (
            "torchrun --nnodes 2 --nproc_per_node 4 f.py arguments.json model.path=m train_file=b.json",
            4 * 8 * 8,
        ),
    ],
)
def test_a_script_that_names_a_config(command: str, batch: int) -> None:
    Path("start.sh").write_text(f"#!/bin/bash\n{command}\n", encoding="utf-8")
    made = imported_recipe("start.sh", ("model.path=builtin:tiny",), World(), None)
    assert made.case.batch.per_step == batch


def test_words_behind_the_file_count() -> None:
    made = imported("run_sft.sh", "batch.grad_accum_steps=16", "run.seed=7")
    assert made.case.batch.per_step == 16
    assert re.search(r"seed: 7 +# command line", made.text)
    with pytest.raises(Refused) as caught:
        imported("run_sft.sh", "learning_rate=1e-4")
    assert "lr.reference=1e-4" in caught.value.findings[0].helps[0]


def mixed(*lines: str) -> Imported:
    """LLaMA-Factory on two data sets, the second of which is shorter than the limit."""
    for name, count in (("a", 30), ("b", 9)):
        records = [{"instruction": f"{name}{n}", "input": "", "output": "x"} for n in range(count)]
        Path(f"data/{name}.json").write_text(json.dumps(records), encoding="utf-8")
    info = {name: {"file_name": f"{name}.json"} for name in ("a", "b")}
    Path("data/dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    text = re.sub("(?m)^(dataset: ).*$", "dataset: a,b", foreign_recipes.LLAMA_FACTORY)
    Path("mixed.yaml").write_text(text + "\n".join(lines) + "\n", encoding="utf-8")
    return imported_recipe("mixed.yaml", (), world_of(1, 1), None)


def test_a_limit_of_samples_is_carried_over_for_each_data_set() -> None:
    made = mixed("max_samples: 20", "mix_strategy: concat")
    entries = "[{path: data/a.json, max_samples: 20}, {path: data/b.json, max_samples: 20}]"
    assert re.search(rf"  train: {re.escape(entries)} +# mixed.yaml:\d+ dataset, max_samples", made.text)
    assert made.case.epoch is not None and made.case.epoch.samples == 29 - 3  # val_size 0.1
    assert not {"max_samples", "mix_strategy"} & {left.given.key for left in made.carried.left}
    Path("my.yaml").write_text(made.text, encoding="utf-8")
    assert [finding.code for finding in find_all("my.yaml", [])].count("CF529") == 1


def test_how_data_sets_are_drawn_in_turns_is_named() -> None:
    made = mixed("mix_strategy: interleave_over", "interleave_probs: 0.7,0.3")
    left = {one.given.key: one for one in made.carried.left}
    assert "until the last is used up" in left["mix_strategy"].why and left["mix_strategy"].trains
    assert "weight: 2" in left["interleave_probs"].help
    assert made.case.epoch is None


BROKEN = {
    "nothing.yaml": ("", "CF051", "it is empty"),
    "no.yaml": ("a: [1\nb: 2\n", "CF050", "bracket"),
    "other.yaml": (
        "services: {web: {image: nginx}}\nversion: 3\n",
        "CF051",
        "its keys are services and version",
    ),
    "echo.sh": ("#!/bin/bash\necho hello\n", "CF051", "it starts no training"),
    "plain.sh": (
        "#!/bin/bash\ntorchrun --nproc_per_node 2 serve.py --port 80\n",
        "CF051",
        "it starts serve.py",
    ),
    "train.py": ("import torch\n", "CF051", "it is a program"),
    "ds.json": ('{"zero_optimization": {"stage": 2}}', "CF051", "it is a DeepSpeed file"),
    "ours.yaml": (
        "run: {name: a}\nbatch: {}\nlr: {reference: 1}\ntrain: {}\n",
        "CF051",
        "a run config of crossfoot",
    ),
    "lost.sh": (
        "llamafactory-cli train lost.yaml\n",
        "CF050",
        "lost.yaml, which the script names, is not there",
    ),
    "few.json": ('{"num_train_epochs": 3}', "CF053", "does not say model.path and data.train"),
    "wrong.yaml": (
        "stage: sft\nmodel_name_or_path: m\ndataset: a\nlearning_rate: fast\n",
        "CF054",
        "learning_rate",
    ),
    "auto.yaml": (
        "stage: sft\nmodel_name_or_path: m\ndataset: a\nper_device_train_batch_size: auto\n",
        "CF056",
        "per_device_train_batch_size is auto",
    ),
    "run.sh": (
        "torchrun f.py --model_name_or_path m --train_file a --gradient_accumulation_steps $1\n",
        "CF056",
        "gradient_accumulation_steps is known to the run only",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_imported_is_one_finding(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, code, words = BROKEN[name]
    Path(name).write_text(text, encoding="utf-8")
    assert main(["import", name]) == (2 if code in ("CF050", "CF051") else 1)
    said = capsys.readouterr().out
    assert said.count("[CF") == 1 and code in said and words in said and "help:" in said


@pytest.mark.parametrize("name", ["absent.yaml", "data", "data/reviews.json"])
def test_what_is_no_file_of_a_trainer(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", name]) == 2
    assert capsys.readouterr().out.count("[CF05") == 1


def test_the_config_goes_to_a_new_file_or_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "run_sft.sh"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("# made by: crossfoot import run_sft.sh") and "not carried over" in shown.err
    assert main(["import", "run_sft.sh", "--out", "my.yaml"]) == 0
    assert Path("my.yaml").read_text(encoding="utf-8") == shown.out
    assert "samples per optimizer step" in capsys.readouterr().out
    assert main(["import", "run_sft.sh", "--out", "my.yaml"]) == 2
    assert "CF052" in (said := capsys.readouterr().out) and "--out my-2.yaml" in said
    assert main(["import", "run_sft.sh", "--out", "no/my.yaml"]) == 2
    assert "CF057" in capsys.readouterr().out


def test_gpus_that_nobody_says_and_ranks_without_deepspeed_are_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["import", "llama_factory.yaml", "--out", "a.yaml"]) == 0
    assert "CF055" in (said := capsys.readouterr().out) and "the batch is 16 for each" in said
    assert main(["import", "llama_factory.yaml", "--gpus", "8", "--out", "b.yaml"]) == 0
    assert "CF058" in (said := capsys.readouterr().out) and "CF055" not in said


@pytest.mark.parametrize("name", ["run_sft.sh", "llama_factory.yaml", "axolotl.yaml"])
def test_where_a_run_config_belongs_the_verb_is_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", name]) != 0
    assert f"crossfoot import {name} --out my.yaml" in capsys.readouterr().out


def test_the_page_shows_what_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "import.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```sh run_sft.sh\n(.*?)```", page, re.DOTALL)
    (config,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (said,) = re.findall(
        r"```console\n\$ crossfoot import run_sft.sh --out my.yaml\n(.*?)```", page, re.DOTALL
    )
    Path("run_sft.sh").write_text(script, encoding="utf-8")
    Path("zero2.json").write_text(json.dumps(ZERO2), encoding="utf-8")
    records = [{"instruction": str(n), "input": "", "output": str(n)} for n in range(1_205)]
    Path("data/reviews.json").write_text(json.dumps(records), encoding="utf-8")
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["import", "run_sft.sh", "--out", "my.yaml"]) == 0
    assert capsys.readouterr().out == said
    assert config in Path("my.yaml").read_text(encoding="utf-8")
    assert main(["check", "my.yaml"]) == 0


def test_the_page_names_every_departure_and_every_version() -> None:
    page = (ROOT / "docs" / "import.md").read_text(encoding="utf-8")
    source = (ROOT / "src/crossfoot/importing/departures.py").read_text(encoding="utf-8")
    names = re.findall(r'Departure\(\s*"([^"]+)"', source)
    assert len(names) > 15 and [name for name in names if name not in page] == []
    assert all(stack.version in page and stack.title in page for stack in STACKS)
