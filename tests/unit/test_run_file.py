"""The run config: values, places, overrides, and what is said about a broken one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.written.config import Config
from crossfoot.written.resolved import dump_config
from crossfoot.written.run_file import RunFile, load_run

CONFIG = """\
# Chinese-LLaMA-Alpaca-2, LoRA, two nodes
run:
  name: alpaca2-7b-lora
  seed: 7
model:
  path: models/chinese-llama-2-7b   # 基座
  dtype: bfloat16
data:
  train:
    - 数据/alpaca_zh.json
    - data/alpaca_en.json
  max_seq_len: 1024
batch: {micro_batch_size: 4, grad_accum_steps: 8}
cluster:
  num_nodes: 2
  gpus_per_node: 8
lr:
  reference: 1e-4
  reference_batch: 128
  rule: sqrt
  warmup_fraction: 0.03
optimizer:
  betas: [0.9, 0.95]
lora:
  r: 64
  modules_to_save: [embed_tokens, lm_head]
train:
  epochs: 3
validation:
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Load a text as run.yaml in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def _load(text: str | bytes = CONFIG, *overrides: str) -> RunFile:
        Path("run.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
        return load_run("run.yaml", overrides)

    return _load


def refused(load, text: str | bytes = CONFIG, *overrides: str) -> tuple[Finding, ...]:
    with pytest.raises(Refused) as caught:
        load(text, *overrides)
    return caught.value.findings


def swap(old: str, new: str) -> str:
    assert old in CONFIG
    return CONFIG.replace(old, new)


def test_values_are_read_as_yaml_1_2(load) -> None:
    config = load().config
    assert config.lr.reference == 1e-4
    assert config.optimizer.betas == (0.9, 0.95)
    assert config.data.train == ["数据/alpaca_zh.json", "data/alpaca_en.json"]
    assert load(swap("alpaca2-7b-lora", "no")).config.run.name == "no"


def test_places_are_of_the_value_in_characters(load) -> None:
    run = load()
    assert run.place("run", "name") == Place("run.yaml", 3, 9, 15)
    assert run.place("data", "train", 0) == Place("run.yaml", 10, 7, 17)
    assert run.place("batch.grad_accum_steps") == Place("run.yaml", 13, 48, 1)
    assert run.place("lr") == Place("run.yaml", 17, 1, 2)
    assert run.place("lr", "min_ratio") == Place("run.yaml", 17, 1, 2), "a default: its section"
    assert run.place("tokenizer", "path") == Place("run.yaml"), "an absent section: the file"


def test_origins(load) -> None:
    run = load(CONFIG, "batch.grad_accum_steps=16", "lora.alpha=16")
    assert run.origin("batch", "micro_batch_size") == "run.yaml:13"
    assert run.origin("batch", "grad_accum_steps") == "command line"
    assert run.origin("run", "dir") == "default"
    assert run.place("batch", "grad_accum_steps") == Place("command line")
    assert run.is_written("lora", "r") and not run.is_written("lora", "dropout")


def test_overrides_are_yaml_and_the_last_one_holds(load) -> None:
    run = load(
        CONFIG,
        "batch.micro_batch_size=null",
        "batch.global_batch_size=100",
        "batch.global_batch_size=200",
        "data.train=[a.json, b.json]",
        "run.name=a=b",
        "tracking.wandb=offline",
    )
    assert run.config.batch.model_dump() == {
        "micro_batch_size": None,
        "micro_batch_tokens": None,
        "grad_accum_steps": 8,
        "global_batch_size": 200,
        "target_trained_tokens": None,
    }
    assert run.config.data.train == ["a.json", "b.json"]
    assert run.config.run.name == "a=b"
    assert run.config.tracking.wandb == "offline"
    assert run.origin("data", "train", 1) == "command line"


def test_lora_can_be_switched_off_and_on(load) -> None:
    assert load(CONFIG, "lora=null").config.lora is None
    without = CONFIG.replace("lora:\n  r: 64\n  modules_to_save: [embed_tokens, lm_head]\n", "")
    assert load(without).config.lora is None
    assert load(without, "lora.r=8").config.lora.r == 8
    assert load(without + "lora: {}\n").config.lora.r == 64


def test_folders(load) -> None:
    run = load()
    assert (run.run_dir, run.index_dir) == ("runs/alpaca2-7b-lora", "runs/.index")
    run = load(CONFIG, "run.dir=/shared/x/", "data.index_dir=/fast/index")
    assert (run.run_dir, run.index_dir) == ("/shared/x", "/fast/index")


def test_everything_wrong_is_said_at_once_in_file_order(load) -> None:
    text = swap("seed: 7", "seed: -1").replace("epochs: 3", "epochs: 0").replace("rule: sqrt", "rule: 5")
    findings = refused(load, text.replace("reference: 1e-4", "referense: 1e-4"), "model.dtype=8")
    assert [(f.code, str(f.place)) for f in findings] == [
        ("CF007", "run.yaml:4:9"),
        ("CF004", "run.yaml:18:3"),
        ("CF007", "run.yaml:20:9"),
        ("CF007", "run.yaml:28:11"),
        ("CF007", "command line"),
    ]
    assert findings[1].helps == ("the nearest key of lr is reference",)


@pytest.mark.parametrize(
    ("path", "help_"),
    [
        ("batch.micro_batchsize", "write batch.micro_batch_size=1"),
        ("batch.per_device_train_batch_size", "write batch.micro_batch_size=1"),
        ("optimizer.dropout", "write lora.dropout=1"),
        ("optimiser.eps", "write optimizer.eps"),
        ("learning_rate", "write lr.reference=1"),
        ("data.last_stpe", "write data.last_step=1"),
        ("lora.warmup_frac", "the nearest key is lr.warmup_fraction"),
        ("lora.zzz", "remove lora.zzz"),
    ],
)
def test_an_unknown_path_is_named_with_the_nearest(load, path: str, help_: str) -> None:
    (finding,) = refused(load, CONFIG, f"{path}=1")
    assert finding.code == "CF004"
    assert finding.title == f"{path} is not a key of a run config"
    assert finding.helps == (help_,)


@pytest.mark.parametrize(
    ("path", "value", "title"),
    [
        ("batch.micro_batch_size", "0", "batch.micro_batch_size must be at least 1, and is 0"),
        ("batch.micro_batch_size", "eight", 'batch.micro_batch_size must be a whole number, and is "eight"'),
        ("batch.micro_batch_size", "true", "batch.micro_batch_size must be a whole number, and is true"),
        (
            "batch.micro_batch_size",
            "1e12",
            "batch.micro_batch_size must be a whole number, and is 1000000000000.0",
        ),
        (
            "run.seed",
            "9223372036854775808",
            "run.seed must be at most 9223372036854775807, and is 9223372036854775808",
        ),
        ("lr.reference", ".inf", "lr.reference must be a finite number, and is Infinity"),
        ("lr.min_ratio", "1.5", "lr.min_ratio must be at most 1, and is 1.5"),
        ("lora.dropout", "1", "lora.dropout must be less than 1, and is 1"),
        ("data.train", "[]", "data.train must be a list with at least 1 entry, and is []"),
        ("data.train", "[a, 3]", "data.train[1] must be text, and is 3"),
        ("data.max_seq_len", "null", "data.max_seq_len must be a whole number, and is nothing"),
        ("optimizer.betas", "[0.9]", "optimizer.betas must be a list with at least 2 entries, and is [0.9]"),
        ("model", "7b", 'model must be a section with keys, and is "7b"'),
        (
            "run.name",
            '"x\\u009b31m"',
            "run.name must be text without slash or invisible characters, not beginning with a dot, "
            'and is "x\\u009b31m"',
        ),
        (
            "data.train",
            '["x\\u202e.jsonl"]',
            'data.train[0] must be text on one line, without invisible characters, and is "x\\u202e.jsonl"',
        ),
        ("model.dtype", "fp16", 'model.dtype must be float32, bfloat16 or float16, and is "fp16"'),
    ],
)
def test_wrong_values_in_plain_words(load, path: str, value: str, title: str) -> None:
    (finding,) = refused(load, CONFIG, f"{path}={value}")
    assert (finding.code, finding.title) == ("CF007", title)


@pytest.mark.parametrize(
    ("raw", "code", "place", "words"),
    [
        (b"", "CF003", "run.yaml", "is empty"),
        (b"# nothing yet\n", "CF003", "run.yaml", "is empty"),
        (b"- a\n- b\n", "CF003", "run.yaml:1:1", "is a list"),
        (b"just text\n", "CF003", "run.yaml:1:1", "is a single value"),
        (b"\xef\xbb\xbfrun: {}\n", "CF001", "run.yaml:1:1", "byte order mark"),
        ("run: {}\n".encode("utf-16"), "CF001", "run.yaml", "UTF-16"),
        ("run:\n  name: 名\n".encode("gbk"), "CF001", "run.yaml:2:9", "not UTF-8"),
        (b"run:\n  name: [a\nmodel: {}\n", "CF002", "run.yaml:3:6", "cannot be read"),
        (b"run:\n\tname: a\n", "CF002", "run.yaml:2:1", "a tab stands"),
        (b"run: {}\n---\nrun: {}\n", "CF002", "run.yaml:2:1", "second document"),
        (b"run: !foo 3\n", "CF002", "run.yaml:1:6", "the tag !foo"),
        (b"run: &a [*a]\n", "CF002", "run.yaml:1:6", "aliases"),
        (b"run: {<<: {name: a}}\n", "CF002", "run.yaml:1:7", "merge keys"),
        (b"a: " + b"{a: " * 3000, "CF002", "run.yaml:1:1", "nested too deeply"),
        (b"x: " + b"9" * 5000, "CF002", "run.yaml:1:4", "cannot be read as a number"),
        (b"#" * (1 << 20) + b"\n", "CF001", "run.yaml", "1,048,577 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else None,
)
def test_unreadable_files(load, raw: bytes, code: str, place: str, words: str) -> None:
    (finding,) = refused(load, raw)
    assert (finding.code, str(finding.place)) == (code, place)
    assert words in finding.title
    assert finding.unreadable


def test_a_missing_file_and_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("configs/demo.yaml").write_text(CONFIG)
    for path, words, help_ in (
        ("configs/dmeo.yaml", "does not exist", "the nearest name there is configs/demo.yaml"),
        ("configs", "is a folder", "give one of its files: configs/demo.yaml"),
    ):
        with pytest.raises(Refused) as caught:
            load_run(path)
        (finding,) = caught.value.findings
        assert words in finding.title and finding.helps == (help_,)
        assert caught.value.exit_code == 2


def test_duplicates_name_both_places_at_any_depth(load) -> None:
    findings = refused(load, CONFIG + "run:\n  name: again\n")
    assert [(f.code, str(f.place), str(f.others[0][0])) for f in findings] == [
        ("CF005", "run.yaml:30:1", "run.yaml:2:1")
    ]
    findings = refused(load, swap("  seed: 7\n", "  seed: 7\n  name: b\n"))
    assert [(f.code, str(f.place), str(f.others[0][0])) for f in findings] == [
        ("CF005", "run.yaml:5:3", "run.yaml:3:3")
    ]


def test_a_missing_key_points_at_its_section(load) -> None:
    findings = refused(load, swap("  name: alpaca2-7b-lora\n", "").replace("train:\n  epochs: 3\n", ""))
    assert [(f.code, f.title, str(f.place)) for f in findings] == [
        ("CF006", "the section train is missing", "run.yaml"),
        ("CF006", "run.name is missing", "run.yaml:2:1"),
    ]


def test_the_length_is_given_exactly_once(load) -> None:
    (both,) = refused(load, swap("  epochs: 3", "  epochs: 3\n  max_steps: 10"))
    assert (both.code, str(both.place), str(both.others[0][0])) == (
        "CF009",
        "run.yaml:28:11",
        "run.yaml:29:14",
    )
    (neither,) = refused(load, CONFIG, "train.epochs=null")
    assert (neither.code, str(neither.place)) == ("CF009", "run.yaml:27:1")
    (misspelt,) = refused(load, swap("epochs: 3", "epoch: 3"))
    assert (misspelt.code, misspelt.helps) == ("CF004", ("the nearest key of train is epochs",))


def test_two_batch_numbers_are_needed(load) -> None:
    (finding,) = refused(load, CONFIG, "batch.grad_accum_steps=null")
    assert finding.code == "CF105"
    assert finding.helps == ("also set batch.global_batch_size: samples per optimizer step",)
    (finding,) = refused(load, CONFIG, "batch=null")
    assert (finding.code, str(finding.place)) == ("CF105", "command line")


def test_a_key_that_is_nothing_like_the_missing_one_hides_nothing(load) -> None:
    """Both are said; of a key that may be the missing one only its own finding is."""
    found = refused(load, swap("epochs: 3", "colour: 3"))
    assert {finding.code for finding in found} == {"CF004", "CF009"}
    found = refused(load, swap("grad_accum_steps: 8", "colour: 3"))
    assert {finding.code for finding in found} == {"CF004", "CF105"}
    found = refused(load, swap("grad_accum_steps: 8", "grad_accum: 3"))
    assert {finding.code for finding in found} == {"CF004"}


def test_one_warmup_at_most(load) -> None:
    (finding,) = refused(load, swap("  rule: sqrt", "  rule: sqrt\n  warmup_steps: 5"), "lr.warmup_samples=9")
    assert finding.code == "CF201"
    assert "three times: warmup_steps 5, warmup_fraction 0.03 and warmup_samples 9" in finding.title
    assert [str(place) for place, _ in finding.others] == ["run.yaml:22:20", "command line"]


@pytest.mark.parametrize("text", [CONFIG, CONFIG + "tokenizer: {path: 'a: b #c'}\n"])
def test_the_resolved_config_reads_back_equal(load, text: str) -> None:
    config = load(
        text, "optimizer.eps=1e-30", "lr.reference=5e22", "run.name='1e5'", "tracking.wandb=off"
    ).config
    again = load(dump_config(config))
    assert again.config == config
    assert again.origin("optimizer", "weight_decay").startswith("run.yaml:"), "defaults are written out"


def test_the_resolved_config_has_every_key(load) -> None:
    text = dump_config(load().config)
    for name, section in Config.model_fields.items():
        assert f"{name}:" in text, section


def test_loading_imports_no_torch(load) -> None:
    load()
    code = (
        "import sys; from crossfoot.written.run_file import load_run; load_run('run.yaml', []);"
        "from crossfoot.checks.rules import run_static_rules; from crossfoot.findings.render import render;"
        "print([m for m in ('torch', 'transformers', 'deepspeed', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"], capture_output=True
    )
    assert out.stdout.decode().strip() == "[]", out.stderr.decode()


@pytest.mark.parametrize(
    ("text", "title", "help_"),
    [
        (
            "run: {name: a\nmodel: b}\nx: }\n",
            "expected ',' or '}', but got ':'",
            "close the bracket of line 1",
        ),
        ('run:\n  name: "a\n', "it ends too early", "close the quotes of line 2"),
        ("run:\n  name: a\n seed: 1\n", "this line is not indented like those above it", "indent the keys"),
        ("run\n  name: a\n", "a second key stands", "put a colon behind run, in the line above"),
        ("run:\n  name: @a\n", "@ cannot begin a value", "put the value in quotes"),
        ('run:\n  dir: "C:\\models"\n', "a backslash in double quotes begins an escape", "single quotes"),
        ("run:\n  name: *a\n", "* begins an alias", "put the value in quotes"),
    ],
)
def test_broken_yaml_is_said_in_plain_words(load, text: str, title: str, help_: str) -> None:
    (finding,) = refused(load, text)
    assert finding.code == "CF002" and finding.title.startswith(f"the YAML cannot be read: {title}")
    assert help_ in finding.helps[0]
