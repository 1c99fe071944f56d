"""`crossfoot check` as it is used: its formats, its exit codes, what --fix changes and what it leaves."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from crossfoot.checks import fixing
from crossfoot.checks.fixing import applied, fix_all
from crossfoot.checks.reference import reference
from crossfoot.cli import main
from crossfoot.findings.finding import Edit, Finding, Place
from crossfoot.findings.formats import formatted
from crossfoot.written.source import read_source
from support.launching import ROOT, write_samples

CONFIG = """\
# a run
run: {name: demo}
model: {path: builtin:tiny, dtype: float32}
data:
  train: a.jsonl   # one file
batch:
  micro_batch_size: "4"   # per GPU
  grad_accum_step: 8
cluster: {gpus_per_node: 2.0}
lr:
  learning_rate: 1e-4
optimizer: {max_grad_norm: 3}
deepspeed: ds.json
train: {epochs: 1}
"""
DEEPSPEED = """\
{
  // shards gradients
  "train_batch_size": 16,
  "gradient_clipping": 0.5,
\t"zero_optimization": {"stage": 2,},
}
"""
GOOD = CONFIG.replace("a.jsonl ", "[a.jsonl] ").replace('"4"', "4").replace("_step:", "_steps:")
GOOD = GOOD.replace("2.0", "2").replace("learning_rate", "reference")


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(CONFIG)
    Path("ds.json").write_text(DEEPSPEED)
    write_samples(Path("a.jsonl"), 100)

    def _check(*words: str) -> tuple[int, str]:
        code = main(["check", "run.yaml", *words])
        return code, capsys.readouterr().out

    return _check


def test_the_formats_say_the_same(check) -> None:
    code, text = check()
    found = json.loads(check("--format", "json")[1])
    concise = check("--format", "concise")[1].splitlines()
    annotations = check("--format", "github")[1].splitlines()
    assert code == 1
    assert text.count("[CF") == len(found) == len(concise) == len(annotations) >= 6
    promised = {"code", "severity", "title", "file", "line", "column", "notes", "helps", "fix"}
    for finding, line, annotation in zip(found, concise, annotations, strict=True):
        assert promised <= set(finding)
        where = f"{finding['file']}:{finding['line']}:{finding['column']}"
        assert line.startswith(f"{where}: {finding['severity']}[{finding['code']}] {finding['title']}")
        assert f"file={finding['file']},line={finding['line']},col={finding['column']}," in annotation
        assert annotation.startswith("::error " if finding["severity"] == "error" else "::warning ")
        assert f"title={finding['code']}::{finding['title']}" in annotation
        assert f"{where}\n" in text and finding["title"] in text


def test_a_mistake_hides_no_other_and_makes_no_false_one(check) -> None:
    Path("run.yaml").write_text(GOOD.replace("reference: 1e-4", "reference: fast").replace("demo", "[]"))
    found = json.loads(check("--format", "json")[1])
    assert [finding["code"] for finding in found] == ["CF007", "CF007", "CF313", "CF101", "CF304", "CF313"]
    Path("run.yaml").write_text(GOOD.replace("micro_batch_size: 4", "micro_batch_size: four"))
    found = json.loads(check("--format", "json")[1])
    assert [finding["code"] for finding in found] == ["CF007", "CF313", "CF304", "CF313"], (
        "no batch, no CF101"
    )


def test_annotations_are_escaped_as_github_wants_it() -> None:
    place = Place("a,b:c.yaml", 3, 4, 2)
    finding = Finding("CF000", "50% of\nit", place=place, notes=("a",), helps=("b: c",), severity="note")
    assert formatted([finding], "github") == (
        "::notice file=a%2Cb%3Ac.yaml,line=3,col=4,endColumn=6,title=CF000"
        "::50%25 of\ufffdit%0Anote: a%0Ahelp: b: c"
    )
    nowhere = Finding("CF000", "x", place=Place("command line"))
    assert formatted([nowhere], "github") == "::error title=CF000::x"


@pytest.mark.parametrize("path", ["run.yaml", "./run.yaml", "{here}/run.yaml"])
def test_a_scripts_overrides_count_however_the_config_is_named(
    check, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("run.yaml").write_text(GOOD)
    Path("ds.json").write_text('{"gradient_clipping": 3, "train_batch_size": 64}')
    Path("run.sh").write_text("deepspeed --num_gpus 2 train.py run.yaml batch.grad_accum_steps=4\n")
    code = main(["check", path.format(here=os.getcwd()), "run.sh", "--format", "concise"])
    assert (code, "this run steps on 32 samples" in capsys.readouterr().out) == (1, True)


def test_a_good_run_says_so_and_its_json_is_empty(check) -> None:
    Path("run.yaml").write_text(GOOD)
    Path("ds.json").write_text('{"gradient_clipping": 3}')
    assert check() == (
        0,
        "run.yaml: nothing found (1 node, 2 GPUs, batch 64, 100 records, model config, ds.json)\n",
    )
    assert check("--format", "json") == (0, "[]\n")
    assert check("--format", "concise") == (0, "")


def test_warnings_alone_are_fine_unless_strict(check) -> None:
    Path("run.yaml").write_text(GOOD)
    Path("ds.json").write_text('{"gradient_clipping": 3 // zero\n}')
    assert check()[0] == 0
    assert check("--strict")[0] == 1
    Path("ds.json").write_text("{")
    assert check()[0] == 2


def test_colour_is_for_terminals_and_no_color_is_obeyed(
    check, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "\x1b[" not in check()[1]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1;31merror[CF" in check()[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in check()[1]


def test_fix_repairs_what_is_safe_keeps_the_rest_and_shows_a_diff(check) -> None:
    code, out = check("--fix")
    assert Path("run.yaml").read_text() == GOOD, "comments, order and blanks are as they were"
    repaired = DEEPSPEED.replace("16,", "64,").replace("2,}", "2}").replace("},\n}", "}\n}")
    assert Path("ds.json").read_text() == repaired.replace("0.5", "3")
    for line in ('-  micro_batch_size: "4"   # per GPU', "+  micro_batch_size: 4   # per GPU", "+++ ds.json"):
        assert f"{line}\n" in out
    assert code == 0 and "// shards gradients" in Path("ds.json").read_text()
    before = [Path(name).read_bytes() for name in ("run.yaml", "ds.json")]
    assert check("--fix") == check(), "nothing is left to repair"
    assert before == [Path(name).read_bytes() for name in ("run.yaml", "ds.json")]


def test_fix_keeps_the_mode_a_link_and_windows_line_ends(check) -> None:
    Path("real.yaml").write_bytes(CONFIG.replace("\n", "\r\n").encode())
    os.chmod("real.yaml", 0o640)
    Path("run.yaml").unlink()
    Path("run.yaml").symlink_to("real.yaml")
    check("--fix", "--format", "json")
    assert Path("run.yaml").is_symlink()
    assert Path("real.yaml").read_bytes() == GOOD.replace("\n", "\r\n").encode()
    assert Path("real.yaml").stat().st_mode & 0o777 == 0o640


def test_a_round_that_breaks_a_file_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("[1]")

    def find() -> list[Finding]:
        broken = path.read_text() != "[1]"
        return [Finding("CF000", "x", fix=(Edit(str(path), 0, 1, ""),), unreadable=broken)]

    _, diff = fix_all(find)
    assert (path.read_text(), diff) == ("[1]", "")


def test_edits_that_touch_wait_for_the_next_round(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("aab")

    def find() -> list[Finding]:
        text = read_source(str(path)).text
        return [
            Finding("CF000", "a", fix=(Edit(str(path), at, at + 1, "c"),))
            for at, letter in enumerate(text)
            if letter == "a"
        ]

    found, diff = fix_all(find)
    assert (path.read_text(), found) == ("ccb", ())
    assert "-aab" in diff and "+ccb" in diff
    assert applied("0123456", [Edit("", 1, 2, "x"), Edit("", 4, 6, "")]) == "0x236"
    assert fixing.MOST_ROUNDS >= 2


def test_the_reference_in_docs_is_the_one_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--all"]) == 0
    printed = capsys.readouterr().out
    assert printed == reference()
    assert (ROOT / "docs" / "findings.md").read_text(encoding="utf-8") == printed, (
        "docs/findings.md is old: crossfoot explain --all > docs/findings.md"
    )
    assert main(["explain"]) == 2
