"""Bad input, as a user gives it: a clear message with its code and place, exit code 1 or 2, no traceback,
nothing slow started, no rank left waiting.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from support.launching import (
    ROOT,
    deepspeed,
    environment,
    ledger,
    plain,
    receipt,
    short_tokenizer,
    small_config,
    start,
    warm_ranks,
)
from support.steering import Steering, wait_until_held

pytestmark = pytest.mark.distributed

TRAIN = ROOT / "train.py"
BREAKAGE = ROOT / "tests" / "support" / "breakage.py"
GOOD = {"instruction": "say red", "output": "red"}
Done = subprocess.CompletedProcess[str]


def _said(done: Done) -> str:
    return done.stdout + done.stderr


def _refused(done: Done, code: int, *words: str) -> None:
    """One exit code, every word, and no traceback."""
    assert done.returncode == code, _said(done)[-4000:]
    for word in words:
        assert word in done.stdout, f"{word!r} is not in:\n{_said(done)[-4000:]}"
    assert "Traceback" not in _said(done)


def _nothing_began(done: Done, run_dir: Path) -> None:
    """Refused before a model was loaded, and the run folder is as free as before."""
    assert "trained parameters" not in done.stderr
    assert not run_dir.exists()


def _lines(path: Path, *records: dict[str, str] | str) -> Path:
    texts = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


# --- what is known before torch: one subprocess each, two at a time


@dataclass(frozen=True)
class Quick:
    """words: after the config, {here} being the case's folder. edit: changes the config's text or its folder
    first.
    """

    words: str
    code: int
    shows: tuple[str, ...]
    verb: str = "train"
    edit: Callable[[Path, str], str | bytes] | None = None


def _deepspeed_file(text: str) -> Callable[[Path, str], str]:
    def edit(here: Path, config: str) -> str:
        (here / "zero.json").write_text(text, encoding="utf-8")
        return config.replace(str(ROOT / "ds_configs" / "zero2.json"), str(here / "zero.json"))

    return edit


def _used_folder(here: Path, config: str) -> str:
    (here / "run").mkdir()
    (here / "run" / "ledger.jsonl").write_text("", encoding="utf-8")
    return config


def _file_for_folder(here: Path, config: str) -> str:
    (here / "run").write_text("mine", encoding="utf-8")
    return config


def _empty_data(here: Path, config: str) -> str:
    _lines(here / "data.jsonl")
    return config


def _json_list(here: Path, config: str) -> str:
    (here / "data.json").write_text('[{"instruction": "a", "output": "b"},\n {"instruction": ', "utf-8")
    return config.replace("data.jsonl", "data.json")


QUICK = {
    "data file missing": Quick("data.train=[no/such.jsonl]", 2, ("CF501", "no/such.jsonl", "command line")),
    "data file missing, plan": Quick("data.train=[no/such.jsonl]", 2, ("CF501", "command line"), "plan"),
    "data file missing, check": Quick("data.train=[no/such.jsonl]", 2, ("CF501", "command line"), "check"),
    "data file missing, index": Quick("data.train=[no/such.jsonl]", 2, ("CF501", "command line"), "index"),
    "validation missing": Quick("data.validation=[no/such.jsonl]", 2, ("CF501", "no/such.jsonl")),
    "data set empty": Quick("", 1, ("CF505", "data.jsonl", "is empty"), "plan", _empty_data),
    "JSON list broken": Quick("", 2, ("CF503", "data.json:2"), "plan", _json_list),
    "data file of a foreign kind": Quick("data.train=[README.md]", 1, ("CF502", "README.md")),
    "unknown key": Quick("batch.micro_batch_siz=3", 1, ("CF004", "micro_batch_size", "command line")),
    "unknown key in the file": Quick(
        "", 1, ("CF004", "config.yaml:20:5", "micro_batch_size"), "train",
        lambda _, config: config.replace('"micro_batch_size"', '"micro_batchsize"'),
    ),
    "batch 0": Quick("batch.global_batch_size=0", 1, ("CF007", "at least 1, and is 0", "command line")),
    "batch negative": Quick("batch.micro_batch_size=-2", 1, ("CF007", "at least 1, and is -2")),
    "batch is text": Quick("batch.micro_batch_size=many", 1, ("CF007", 'a whole number, and is "many"')),
    "batch 0 in the file": Quick(
        "", 1, ("CF007", "config.yaml:21:26", "at least 1"), "check",
        lambda _, config: config.replace('"global_batch_size": 7', '"global_batch_size": 0'),
    ),
    "batches contradict": Quick("batch.grad_accum_steps=1", 1, ("CF1", "config.yaml")),
    "no value": Quick("batch.micro_batch_size=", 2, ("CF008", "nothing after =")),
    "no path=value": Quick("faster", 2, ("CF008", "faster")),
    "config is no YAML": Quick("", 2, ("CF002", "config.yaml:"), "plan", lambda _, config: config[:-30]),
    "config indented with tabs": Quick(
        "", 2, ("CF002", "config.yaml:2:1", "spaces"), "plan", lambda *_: "run:\n\tname: x\n"
    ),
    "config with a byte order mark": Quick(
        "", 2, ("CF001", "config.yaml:1:1", "byte order mark"), "plan",
        lambda _, config: b"\xef\xbb\xbf" + config.encode(),
    ),
    "config in UTF-16": Quick("", 2, ("CF001", "UTF-16"), "plan", lambda _, config: config.encode("utf-16")),
    "model folder missing": Quick("model.path=/no/model", 2, ("CF541", "/no/model", "command line")),
    "tokenizer folder missing": Quick("tokenizer.path=/no/such", 2, ("CF520", "/no/such", "command line")),
    "folder holds a run": Quick("", 1, ("CF011", "config.yaml:4:12", "--continue"), "train", _used_folder),
    "folder is a file": Quick("", 1, ("CF010", "config.yaml:4:12"), "train", _file_for_folder),
    "folder below a file": Quick("run.dir={here}/data.jsonl/run", 1, ("CF012", "Not a directory")),
    "folder of the system": Quick("run.dir=/proc/none/run", 1, ("CF012", "/proc/none/run", "command line")),
    "DeepSpeed file missing": Quick("deepspeed=/no/zero.json", 2, ("CF301", "/no/zero.json")),
    "DeepSpeed file broken": Quick(
        "", 2, ("CF302", "zero.json:1:24"), "train", _deepspeed_file('{"train_batch_size": 8,')
    ),
    "DeepSpeed batch wrong": Quick(
        "", 1, ("CF101", "zero.json:1:22", "says 256", "config.yaml:20:25"), "train",
        _deepspeed_file('{"train_batch_size": 256}'),
    ),
    "all at once": Quick(
        "data.train=[no/such.jsonl] deepspeed=/no/zero.json model.path=/no/such/model", 2,
        ("CF501", "CF301", "CF541", "3 errors"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Done]]:
    """(folder, what was said) of every quick case."""
    whole = tmp_path_factory.mktemp("quick")

    def one(name: str) -> tuple[Path, Done]:
        case = QUICK[name]
        here = whole / name.replace(" ", "-").replace(",", "")
        here.mkdir()
        config = small_config(here)
        if case.edit is not None:
            text = case.edit(here, config.read_text(encoding="utf-8"))
            config.write_bytes(text.encode() if isinstance(text, str) else text)
        words = case.words.format(here=here).split()
        return here, start([sys.executable, "-m", "crossfoot", case.verb, config, *words])

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(QUICK, pool.map(one, QUICK), strict=True))


@pytest.mark.parametrize("name", QUICK)
def test_refused_before_anything_slow(quick: dict[str, tuple[Path, Done]], name: str) -> None:
    here, done = quick[name]
    case = QUICK[name]
    _refused(done, case.code, "error[", *case.shows)
    assert done.stderr == ""
    assert not (here / "index").exists() or not any((here / "index").iterdir()), "something was tokenised"
    if case.edit is _used_folder:
        assert [path.name for path in (here / "run").iterdir()] == ["ledger.jsonl"]
    elif case.edit is _file_for_folder:
        assert (here / "run").read_text(encoding="utf-8") == "mine"
    else:
        _nothing_began(done, here / "run")


def test_windows_line_ends_are_no_mistake(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    config.write_bytes(config.read_bytes().replace(b"\n", b"\r\n"))
    done = start([sys.executable, "-m", "crossfoot", "plan", config])
    assert done.returncode == 0, _said(done)
    assert "config.yaml:20" in done.stdout


# --- what the tokenizer shows: torch is imported, no model is loaded


@pytest.fixture(scope="module")
def bad_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config whose data has one record of each kind that is left out or refused."""
    here = tmp_path_factory.mktemp("data")
    _lines(
        here / "data.jsonl", GOOD, {"instruction": "say it"}, GOOD, {"instruction": "so " * 99, "output": "x"}
    )
    return small_config(here, data={"max_seq_len": 200})


def test_bad_records_are_named_together(bad_data: Path) -> None:
    done = plain(TRAIN, bad_data)
    _refused(done, 1, "error[CF507]", "data.jsonl:2", "error[CF509]", "data.jsonl:4", "max_seq_len is 200")
    assert "data.bad_samples: skip" in done.stdout and "2 errors" in done.stdout
    _nothing_began(done, bad_data.parent / "run")


def test_a_broken_line_stops_all_ranks(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    _lines(tmp_path / "data.jsonl", GOOD, '{"instruction": "a", "output": ', GOOD)
    done = deepspeed(2, TRAIN, config)
    _refused(done, 2, "error[CF503]", "data.jsonl:2:31")
    assert done.stdout.count("error[") == 1, "one rank speaks"
    _nothing_began(done, tmp_path / "run")


def test_new_rows_that_would_stay_random(tmp_path: Path) -> None:
    config = small_config(tmp_path, lora={"modules_to_save": ["embed_tokens"]})
    done = plain(TRAIN, config, f"tokenizer.path={short_tokenizer(tmp_path)}")
    _refused(done, 1, "error[CF540]", "config.yaml:27", "lm_head is not trained", "32 new rows")
    _nothing_began(done, tmp_path / "run")


def test_skipped_samples_are_counted_and_the_run_goes_on(bad_data: Path) -> None:
    words = ["data.bad_samples=skip", "train.max_steps=2"]
    done = plain(TRAIN, bad_data, *words)
    assert done.returncode == 0, _said(done)
    assert "foots: yes" in done.stdout
    plan = start([sys.executable, "-m", "crossfoot", "plan", bad_data, *words])
    for page in (done.stdout, plan.stdout):
        row = next(line for line in page.splitlines() if "records left out" in line)
        assert row.split()[3] == "2"
    numbers = json.loads(
        start([sys.executable, "-m", "crossfoot", "plan", bad_data, *words, "--json"]).stdout
    )
    assert numbers["samples_per_epoch"] == 2
    assert numbers["estimated"] is False


# --- what fails while it runs


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config of 40 samples; the first run on it builds the index for the others."""
    return small_config(tmp_path_factory.mktemp("running"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "crossfoot-test", str(disk)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small disk needs root")
    if (tried := subprocess.run(mount, capture_output=True, text=True, check=False)).returncode:
        pytest.skip(f"a small disk cannot be mounted: {tried.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_disk_full_while_the_ledger_is_written(indexed: Path, small_disk: Path) -> None:
    (small_disk / "fill").write_bytes(b"x" * (8 << 10))
    run_dir = small_disk / "run"
    done = warm_ranks(2, TRAIN, indexed, f"run.dir={run_dir}", "train.max_steps=500")
    steps = len(ledger(run_dir))
    assert steps > 2
    _refused(
        done, 1, "error[CF701]: the disk is full", f"line of step {steps + 1}", f"{run_dir}/ledger.jsonl"
    )
    assert f"all up to step {steps} is in the ledger; safe against a power cut: up to step {steps}" in (
        done.stdout
    )
    assert f"not complete: {steps} of 500 steps done" in done.stdout
    assert f"CF730  step {steps + 1}: the ledger has no line for step" in done.stdout
    assert "of 500 steps; kept: " in done.stdout
    again = start([sys.executable, "-m", "crossfoot", "receipt", run_dir])
    _refused(again, 3, f"{steps} of 500 steps done")


def test_disk_full_while_the_adapter_is_saved(indexed: Path, small_disk: Path) -> None:
    run_dir = small_disk / "run"
    done = plain(TRAIN, indexed, f"run.dir={run_dir}")
    _refused(done, 1, "error[CF740]", f"{run_dir}/adapter", "No space left on device", "foots: yes")
    assert receipt(run_dir)["foots"] is True
    assert receipt(run_dir)["saved_path"] is None
    assert not [path.name for path in run_dir.iterdir() if "adapter" in path.name]


def test_disk_full_before_the_first_step(indexed: Path, small_disk: Path) -> None:
    (small_disk / "fill").write_bytes(b"x" * (64 << 10))
    done = plain(TRAIN, indexed, f"run.dir={small_disk / 'run'}")
    _refused(done, 1, "error[CF012]", "No space left on device")
    _nothing_began(done, small_disk / "run")


@pytest.mark.slow
def test_disk_full_at_the_last_line_ends_all_ranks(indexed: Path, tmp_path: Path) -> None:
    """Rank 0 alone meets it, when the loop is over: the others must not go on to the validation."""
    words = [f"run.dir={tmp_path / 'run'}", "train.max_steps=3", f"data.validation=[{tmp_path}/v.jsonl]"]
    _lines(tmp_path / "v.jsonl", GOOD)
    done = warm_ranks(2, BREAKAGE, "full", indexed, *words)
    _refused(done, 1, "error[CF701]", "not complete: 2 of 3 steps done")


def test_loss_that_is_no_number(indexed: Path, tmp_path: Path) -> None:
    done = plain(BREAKAGE, "nan", indexed, f"run.dir={tmp_path / 'run'}", "train.max_steps=50")
    _refused(
        done, 1, "error[CF741]: step 3 (epoch 1)", "foots: no", "CF723  step 3: the gradient norm is nan"
    )
    lines = ledger(tmp_path / "run")
    assert len(lines) == 4, "it stops one step later, not at the end"
    assert [line["applied"] for line in lines] == [True, True, False, False]
    weights = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert all(np.isfinite(tensor).all() for tensor in weights.values()), "they are those before the step"


def test_an_error_on_one_rank_ends_the_others(indexed: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    run_dir = tmp_path / "run"
    done = deepspeed(2, BREAKAGE, "error", indexed, f"run.dir={run_dir}", "train.max_steps=50")
    assert time.monotonic() - began < 600, "a collective would wait for half an hour"
    assert done.returncode == 1, _said(done)[-4000:]
    assert "nobody expected this" in done.stderr, "a broken promise of ours keeps its traceback"
    assert done.stderr.count("Traceback") == 1
    assert "rank 1 of 2 ends on this error" in done.stderr
    assert len(ledger(run_dir)) >= 1


@pytest.mark.parametrize("place", ["import.torch.nn", "import.peft"])
def test_ctrl_c_before_the_first_step(indexed: Path, tmp_path: Path, place: str) -> None:
    run_dir, steering = tmp_path / "run", Steering(tmp_path / "steering")
    hold = steering.hold(place)
    command = [sys.executable, str(TRAIN), str(indexed), f"run.dir={run_dir}"]
    surroundings = environment(**steering.variables)
    with subprocess.Popen(
        command, cwd=ROOT, env=surroundings, stdout=-1, stderr=-1, text=True, start_new_session=True
    ) as process:
        wait_until_held(hold, 1, process)
        assert (run_dir / "plan.lock.json").exists()
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 130, stdout + stderr
    assert "Traceback" not in stdout + stderr
    assert "before the first step: nothing was trained" in stderr
    assert not run_dir.exists(), "the same command can be started again"
