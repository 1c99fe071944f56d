"""Mistakes of newcomers, one a row: what is written, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossfoot.checks.fixing import applied
from crossfoot.cli import main
from crossfoot.findings.finding import Finding, Refused
from crossfoot.written.run_file import load_run

CONFIG = """\
# the run
run:
  name: demo   # 名字：演示
  seed: 42
model:
  path: builtin:tiny
  dtype: float32
data:
  train: [a.jsonl, b.jsonl]
  template: alpaca2
  max_seq_len: 1024
batch: {micro_batch_size: 2, grad_accum_steps: 8}
lr:
  reference: 3e-3
  schedule: cosine
  warmup_fraction: 0.05
lora:
  r: 16
optimizer: {name: adamw, betas: [0.9, 0.95]}
deepspeed: zero2.json
train:
  epochs: 2
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def found(text: str, *words: str) -> tuple[Finding, ...]:
    Path("run.yaml").write_text(text, encoding="utf-8", newline="")
    try:
        load_run("run.yaml", words)
    except Refused as refused:
        return refused.findings
    return ()


def swapped(old: str, new: str) -> str:
    assert CONFIG.count(old) == 1
    return CONFIG.replace(old, new)


END = "  epochs: 2\n"
KEYS = [
    (
        "lr of the Trainer",
        END,
        f"{END}learning_rate: 1e-4\n",
        "remove learning_rate, or put its value into lr.reference",
    ),
    (
        "a foreign word in its section",
        "  reference: 3e-3",
        "  learning_rate: 1e-4",
        "here it is called lr.reference: write reference: 1e-4 below lr:",
    ),
    (
        "a word of axolotl",
        "  path: builtin:tiny",
        "  base_model: ./llama",
        "here it is called model.path: write path: ./llama below model:",
    ),
    (
        "bf16 has a counterpart",
        "dtype: float32",
        "bf16: true",
        "here it is called model.dtype: write dtype: bfloat16 below model:",
    ),
    ("what is false says nothing", END, f"{END}fp16: false\n", "remove fp16"),
    ("there is none yet", END, f"{END}double_quantization: true\n", "remove double_quantization"),
    (
        "a list with names",
        "  r: 16",
        "  r: 16\n  lora_target: q_proj,v_proj",
        "here it is called lora.target_modules: a list of names, or all-linear; the default is all seven "
        "linear layers of a block",
    ),
    (
        "a value that trains otherwise",
        "  schedule: cosine",
        "  lr_scheduler_type: polynomial",
        "here it is called lr.schedule, which is cosine, cosine_with_restarts, linear, constant or wsd",
    ),
    (
        "one of two",
        "{micro_batch_size: 2,",
        "{batch_size: 2,",
        "here it is called batch.micro_batch_size: samples per GPU; of a whole step it is "
        "batch.global_batch_size",
    ),
    (
        "the same key elsewhere",
        END,
        f"{END}  dtype: float32\n",
        "remove train.dtype, or put its value into model.dtype",
    ),
    (
        "a free key elsewhere",
        END,
        f"{END}  last_step: drop\n",
        "last_step belongs to another section: write last_step: drop below data:",
    ),
    (
        "at the top, not a near section",
        END,
        f"{END}global_batch_size: 64\n",
        "global_batch_size belongs to another section: write global_batch_size: 64 below batch:",
    ),
    (
        "in two sections",
        END,
        f"{END}  every_steps: 5\n",
        "every_steps belongs to another section: write validation.every_steps or evaluation.every_steps "
        "or checkpoint.every_steps",
    ),
    (
        "a section in another",
        END,
        f"{END}  checkpoint: {{keep: 3}}\n",
        "checkpoint is a section of its own: move it to the top level",
    ),
    (
        "a path with dots",
        END,
        f"{END}lr.min_ratio: 0.1\n",
        "write it in its section: write min_ratio: 0.1 below lr:",
    ),
    ("British", "optimizer:", "optimiser:", "the nearest section is optimizer"),
    ("camels", "max_seq_len", "maxSeqLen", "the nearest key of data is max_seq_len"),
    ("letters", "warmup_fraction", "warmup_fracton", "the nearest key of lr is warmup_fraction"),
    ("like nothing", END, f"{END}colour: red\n", "remove colour"),
]


@pytest.mark.parametrize(("old", "new", "help_"), [row[1:] for row in KEYS], ids=[row[0] for row in KEYS])
def test_a_wrong_key_says_where_it_belongs(old: str, new: str, help_: str) -> None:
    (finding,) = found(swapped(old, new))
    assert (finding.code, finding.helps) == ("CF004", (help_,))


def test_keys_of_one_section_are_moved_at_once() -> None:
    (finding,) = found(swapped(END, f"{END}  last_step: drop\n  layout: padded\n"))
    assert (finding.code, finding.helps) == ("CF032", ("move them below data:",))
    assert finding.title == "last_step and layout stand in train, and belong to data"


def test_a_config_around_the_config() -> None:
    (finding,) = found("config:\n" + "".join(f"  {line}\n" for line in CONFIG.splitlines()))
    assert finding.code == "CF004" and "belong to the top level" in finding.notes[0]


def test_a_config_of_another_trainer_is_one_finding() -> None:
    text = """\
model_name_or_path: ./llama
stage: sft
finetuning_type: lora
dataset: alpaca_zh
cutoff_len: 2048
output_dir: saves
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
logging_steps: 10
quantization_bit: 4
optim: adamw_torch
flash_attn: fa2
"""
    (finding,) = [each for each in found(text) if each.code == "CF033"]
    assert finding.title == "17 keys are words of another trainer"
    assert finding.helps[:8] == (
        "crossfoot import run.yaml --out my.yaml",
        "below model: write path: ./llama, dtype: bfloat16, quantization: nf4, attention: flash_attention_2",
        "below data: write task: sft, max_seq_len: 2048",
        "below run: write dir: saves",
        "below batch: write micro_batch_size: 1, grad_accum_steps: 8",
        "below lr: write reference: 1.0e-4, schedule: cosine, warmup_fraction: 0.1",
        "below train: write epochs: 3",
        "below optimizer: write name: adamw",
    )
    assert [note.partition(" has")[0] for note in finding.notes] == ["logging_steps"]


VALUES = [
    ("warmup_fraction: 0.05", "warmup_fraction: 3%", "write 0.03", "0.03"),
    ("warmup_fraction: 0.05", "warmup_fraction: ３％", "write 0.03", "0.03"),
    ("warmup_fraction: 0.05", "warmup_fraction: 0,05", "write 0.05", "0.05"),
    ("warmup_fraction: 0.05", "warmup_fraction: 3", "write 0.03 if 3 % is meant: it is a share", None),
    ("micro_batch_size: 2", "micro_batch_size: ６４", "write 64", "64"),
    ("micro_batch_size: 2", "micro_batch_size: '64'", "write 64 without quotes", "64"),
    ("max_seq_len: 1024", "max_seq_len: 1,024", "write 1024", "1024"),
    ("max_seq_len: 1024", "max_seq_len: 2e3", "write 2000", "2000"),
    ("max_seq_len: 1024", "max_seq_len: 2k", "write 2000, or 2048", None),
    ("reference: 3e-3", "reference: １e－４", "write 1e-4", "1e-4"),
    ("reference: 3e-3", "reference: ０。００１", "write 0.001", "0.001"),
    ("dtype: float32", "dtype: bf16", "write bfloat16", "bfloat16"),
    ("dtype: float32", "dtype: fp16", "write float16", "float16"),
    ("dtype: float32", "dtype: torch.float32", "write float32", "float32"),
    ("dtype: float32", "dtype: int8", None, None),
    ("schedule: cosine", "schedule: Cosine", "write cosine", "cosine"),
    ("schedule: cosine", "schedule: cosin", "the nearest is cosine", None),
    ("schedule: cosine", "schedule: polynomial", None, None),
    ("name: adamw", "name: adamw_torch", "write adamw", "adamw"),
    ("name: adamw", "name: adam", None, None),
    ("name: adamw", "name: adamw_8bit", None, None),
    ("[a.jsonl, b.jsonl]", "a.jsonl, b.jsonl", "write [a.jsonl, b.jsonl]", "[a.jsonl, b.jsonl]"),
    ("[a.jsonl, b.jsonl]", "a.jsonl", "write [a.jsonl]", "[a.jsonl]"),
    ("[0.9, 0.95]", "'(0.9, 0.95)'", "write [0.9, 0.95]", "[0.9, 0.95]"),
    ("dtype: float32", "gradient_checkpointing: yes", "write true", "true"),
    ("dtype: float32", "gradient_checkpointing: 'False'", "write false", "false"),
    ("r: 16", "target_modules: q_proj v_proj", "write [q_proj, v_proj]", "[q_proj, v_proj]"),
    ("r: 16", "target_modules: all", "write all-linear", "all-linear"),
    (
        "r: 16",
        "trainable_token_indices: neu",
        "lora.trainable_token_indices can be new, or a list of ids and ranges such as 5-9",
        None,
    ),
    ("epochs: 2", "max_steps: -1", "leave it out to train by train.epochs", None),
    ("epochs: 2", "epochs: 2.0", "write 2", "2"),
    ("epochs: 2", "epochs: 1.5", None, None),
    ("deepspeed: zero2.json", "deepspeed: None", "write null, or leave the key out", None),
    ("deepspeed: zero2.json", "deepspeed: false", "write null", "null"),
    ("name: demo", "name: 20240101", "write it in quotes: '20240101'", "'20240101'"),
]


@pytest.mark.parametrize(("old", "new", "help_", "fixed"), VALUES, ids=[row[1] for row in VALUES])
def test_a_value_is_repaired_where_it_trains_the_same(
    old: str, new: str, help_: str | None, fixed: str | None
) -> None:
    text = swapped(old, new)
    (finding,) = found(text)
    assert finding.code == "CF007"
    if help_ is not None:
        assert finding.helps == (help_,)
    else:  # nothing is guessed: what it may be is said
        (choices,) = finding.helps
        assert choices.startswith("set ") or " can be " in choices
        assert finding.fix == ()
    assert (applied(text, finding.fix) != text) == (fixed is not None)
    if fixed is not None:
        written = new.partition(": ")[2] if ": " in new else new
        assert applied(text, finding.fix) == text.replace(written, fixed)
        assert found(applied(text, finding.fix)) == ()


SLIPS = [
    ("CF027", "name: demo", "name：demo", "： stands where YAML needs :"),
    ("CF027", "run:\n", "run：\n", "： stands where YAML needs :"),
    (
        "CF027",
        "{micro_batch_size: 2, grad_accum_steps: 8}",
        "｛micro_batch_size：2，grad_accum_steps：8｝",
        "｛ ： ， ｝ stand where YAML needs ASCII",
    ),
    ("CF027", "[a.jsonl, b.jsonl]", "［a.jsonl，b.jsonl］", "［ ， ］ stand where YAML needs ASCII"),
    (
        "CF027",
        "train: [a.jsonl, b.jsonl]",
        "train:【“a.jsonl”、‘b.jsonl’】",
        "【 “ ” 、 ‘ ’ 】 stand where YAML needs ASCII",
    ),
    ("CF027", "name: demo", "name: “demo”", '“ ” stand where YAML needs "'),
    ("CF027", "  seed: 42", "\u3000seed: 42", "a blank U+3000 stands where YAML needs a plain blank"),
    ("CF027", "name: demo", "name:\u00a0demo", "a blank U+00A0 stands where YAML needs a plain blank"),
    ("CF027", "# the run", "＃ the run", "＃ stands where YAML needs #"),
    ("CF027", "  seed: 42", "  ｓｅｅｄ： 42", "ｓ ｅ ｄ ： stand where YAML needs ASCII"),
    ("CF027", "  seed: 42", "  \u200bseed: 42", "an invisible U+200B stands where YAML needs nothing"),
    ("CF027", "  seed: 42", "  seed = 42", "= stands where YAML needs :"),
    ("CF028", "name: demo", "name:demo", "a blank is missing behind a colon"),
    ("CF028", "path: builtin:tiny", "path:/models/tiny", "a blank is missing behind a colon"),
    ("CF028", "micro_batch_size: 2, grad", "micro_batch_size:2, grad", "a blank is missing behind a colon"),
    ("CF002", "  seed: 42", "\tseed: 42", "the YAML cannot be read: a tab stands where YAML wants spaces"),
]


@pytest.mark.parametrize(("code", "old", "new", "title"), SLIPS, ids=[row[2] for row in SLIPS])
def test_a_slip_of_the_keyboard_is_shown_and_repaired(code: str, old: str, new: str, title: str) -> None:
    text = swapped(old, new)
    (finding,) = found(text)
    assert (finding.code, finding.title) == (code, title)
    assert finding.place is not None and finding.place.line == CONFIG[: CONFIG.index(old)].count("\n") + 1
    if code != "CF002":
        fixed = applied(text, finding.fix)
        assert found(fixed) == ()
        assert "# 名字：演示" in fixed, "comments stay as they are"


def test_tabs_are_repaired_when_their_width_makes_no_difference() -> None:
    text = CONFIG.replace("\n  ", "\n\t")
    (finding,) = found(text)
    assert found(applied(text, finding.fix)) == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: demo", "name: 实验：一，【二】（三）“四” ＃五"),
        ("name: demo", "name: '实验：一'"),
        ("[a.jsonl, b.jsonl]", '["数据，一.jsonl", "：.jsonl"]'),
        ("path: builtin:tiny", "path: 模型/中文：七"),
        ("# the run", "# name：demo，［一］"),
        ("  seed: 42", "  seed: 42\n\n  # run:x"),
    ],
)
def test_text_may_have_any_character(old: str, new: str) -> None:
    assert found(swapped(old, new)) == ()


def test_a_file_may_have_any_comma_in_its_name() -> None:
    Path("数据，一.jsonl").write_text("")
    assert found(swapped("[a.jsonl, b.jsonl]", "[数据，一.jsonl]")) == ()


OVERRIDES = [
    ("lr.reference＝1e-4", "write lr.reference=1e-4"),
    ("batch.global_batch_size=６４", "write batch.global_batch_size=64"),
    ("model.path：x", "write model.path=x"),
    ("model.path:x", "write model.path=x"),
    ("data.train=［a.json，b.json］", "write 'data.train=[a.json, b.json]'"),
    ("seed＝3", "write run.seed=3"),
    ("lr.reference = 1e-4", "write lr.reference=1e-4"),
    ("learning_rate=1e-4", "write lr.reference=1e-4"),
    ("bf16=true", "write model.dtype=bfloat16"),
    ("epochs=3", "write train.epochs=3"),
    ("load_in_8bit=true", "write model.quantization=int8"),
    ("model.dtype=fp16", "write model.dtype=float16"),
    ("lr.warmup_fraction=3%", "write lr.warmup_fraction=0.03"),
    ("data.train=a.json", "write 'data.train=[a.json]'"),
]


@pytest.mark.parametrize(("word", "help_"), OVERRIDES)
def test_an_override_gets_the_word_to_paste(word: str, help_: str) -> None:
    (finding,) = found(CONFIG, word)
    assert finding.helps == (help_,)


OPTIONS = [
    ("check run.yaml --learning_rate 1e-4", "write lr.reference=1e-4"),
    ("check run.yaml --learning_rate=1e-4", "write lr.reference=1e-4"),
    ("train --lr 1e-4 run.yaml", "write lr.reference=1e-4"),
    ("plan run.yaml --bf16", "write model.dtype=bfloat16"),
    ("train run.yaml --per-device-train-batch-size 4", "write batch.micro_batch_size=4"),
    ("index run.yaml --max_seq_len 512", "write data.max_seq_len=512"),
    ("prove run.yaml --lr.reference 1e-4", "write lr.reference=1e-4"),
    ("train run.yaml --deepspeed zero3.json", "write deepspeed=zero3.json"),
    ("train run.yaml --optim adafactor", "write optimizer.name=VALUE, which is adamw or sgd"),
    (
        "train run.yaml --double_quantization",
        "remove --double_quantization: a base in 4 bits (model.quantization: nf4) is NF4 computed in "
        "model.dtype, quantised once",
    ),
    ("check run.yaml --to slurm", "--to is an option of crossfoot launch, study and mirror"),
    ("check run.yaml --formt json", "the nearest option is --format"),
    ("train run.yaml --stop_after 5", "write --stop-after"),
    ("train run.yaml --stop-after5", "write --stop-after 5"),
    ("export runs/a out --steps 3", "the nearest option is --step"),
    ("train run.yaml –stop-after 5", "write --stop-after"),
    ("check --config run.yaml", "write the config without an option: crossfoot check run.yaml"),
    ("--strict check run.yaml", "write --strict behind check"),
]


@pytest.mark.parametrize(("command", "help_"), OPTIONS, ids=[row[0] for row in OPTIONS])
def test_an_option_of_another_is_said_in_our_words(
    command: str, help_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command.split()
    assert main(words) == 2
    out, err = capsys.readouterr()
    option = next(word for word in words if word[0] in "-–").partition("=")[0]
    verb = next(word for word in words if word.isalpha())
    assert out.startswith(f"error[CF026]: {option} is no option of crossfoot {verb}\n")
    assert (f"  = help: {help_}\n" in out, err) == (True, "")


COMMANDS = [
    ("receipt runs/a runs/b", "crossfoot receipt takes one word", "leave out runs/b"),
    (
        "trian run.yaml lr.reference=1e-4",
        "trian is no verb of crossfoot",
        "crossfoot train run.yaml lr.reference=1e-4",
    ),
    ("run run.yaml", "run is no verb of crossfoot", "crossfoot train run.yaml"),
    ("run.yaml", "run.yaml is no verb of crossfoot", "crossfoot check run.yaml"),
    ("help check", "help is no verb of crossfoot", "crossfoot check --help"),
    ("check", "crossfoot check needs a run config (YAML)", ""),
    (
        "launch run.yaml",
        "crossfoot launch needs --to",
        "write --to local, deepspeed, slurm, accelerate or torchrun",
    ),
    (
        "launch run.yaml --to slrum",
        "--to must be local, deepspeed, slurm, accelerate or torchrun, and is slrum",
        "write --to slurm",
    ),
    ("train run.yaml --stop-after ten", "--stop-after must be a whole number, and is ten", ""),
    ("train run.yaml --stop-after 0", "--stop-after must be at least 1, and is 0", ""),
    ("train run.yaml --stop-after", "--stop-after needs a value", "write --stop-after N"),
    ("check run.yaml --fix=1", "--fix takes no value", "write --fix"),
]


@pytest.mark.parametrize(("command", "title", "help_"), COMMANDS, ids=[row[0] for row in COMMANDS])
def test_a_command_that_cannot_be_read_says_what_to_type(
    command: str, title: str, help_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command.split()) == 2
    out, err = capsys.readouterr()
    assert title in out and (not help_ or f"= help: {help_}\n" in out)
    assert err == ""


JSON = [
    ('{\n  "zero_optimization"： {"stage": 2}，\n  "gradient_clipping": 1.0\n}', "2:22", "： ， stand"),
    ('{"zero_optimization": {"stage": ２}}', "1:33", "２ stands"),
    ('{“zero_optimization”: {"stage": 2}}', "1:2", "“ ” stand"),
    ('{"zero_optimization": {"stage": 2},\u00a0"gradient_clipping": 1.0}', "1:36", "a blank U+00A0 stands"),
]


@pytest.mark.parametrize(("text", "place", "title"), JSON, ids=[row[2] for row in JSON])
def test_look_alikes_in_a_deepspeed_file(text: str, place: str, title: str) -> None:
    from crossfoot.written.deepspeed_file import load_deepspeed_file

    Path("zero2.json").write_text(text, encoding="utf-8")
    with pytest.raises(Refused) as caught:
        load_deepspeed_file("zero2.json")
    (finding,) = caught.value.findings
    assert (finding.code, str(finding.place)) == ("CF027", f"zero2.json:{place}")
    assert finding.title.startswith(f"{title} where JSON needs")
    Path("zero2.json").write_text(applied(text, finding.fix), encoding="utf-8")
    assert load_deepspeed_file("zero2.json").get("zero_optimization", "stage") == 2


def test_text_and_comments_of_a_deepspeed_file_may_have_any_character() -> None:
    from crossfoot.written.slips import json_slips

    assert json_slips('{// 注释：一，“二”\n "名，字": "\\"：“三”", # 四，\n /* ，\n， */ "b": 1}') == []
