"""The page of a run, and of several: what it says, that it stays small, and where it is written."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from crossfoot.cli import main
from crossfoot.ledger.cause_pages import CAUSE_PAGES
from crossfoot.ledger.entry import CAUSE_KINDS
from crossfoot.receipts.columns import planned_of_steps
from crossfoot.receipts.receipt import OTHER_LAYOUT, OTHER_SAMPLES
from crossfoot.reports.text import Both
from crossfoot.run_pages.curves import curve
from crossfoot.run_pages.page import run_page
from crossfoot.run_pages.plan_rows import differing_rows, plan_rows
from crossfoot.run_pages.seen_run import see_run
from crossfoot.run_pages.side_by_side import labels, side_by_side_page
from crossfoot.run_pages.verdict_words import reasons, verdict_words
from crossfoot.run_pages.words import (
    KINDS,
    ROWS,
    amount_words,
    end_words,
    note_words,
    row_words,
    weight_words,
    where_words,
)
from crossfoot.runs.ending import REASONS, Ending
from crossfoot.runs.evaluations import RunEvaluation, TaskScore, append_evaluation
from crossfoot.runs.noise_scale import NoiseLine, run_noise
from crossfoot.studies.answer import answer
from crossfoot.studies.page import study_page
from crossfoot.studies.results_file import write_results
from crossfoot.studies.words import sentence
from crossfoot.watching.words import HOW
from ledger_cases import Job, six_samples
from support.made_runs import TOKENS, made_run
from support.made_study import made_study

STEPS = [[(0, 0), (0, 1)], [(0, 2), (0, 3)], [(0, 4), (0, 5)]]
FINISHED = Ending("finished", 3, 0, 3)
MISSING = {7: "missing sample", 8: "missing sample", 30: "rate differs"}


def text_of(page: str, language: str = "en") -> str:
    """What somebody reads: one of the languages, without tags."""
    other = {"en": "zh-CN", "zh-CN": "en"}[language]
    body = re.sub(r"<(style|script|title)>.*?</\1>", "", page, flags=re.DOTALL)
    body = re.sub(rf"<span lang={other}>.*?</span>", "", body, flags=re.DOTALL)
    return re.sub(r"<[^>]+>", "|", body)


def drawn(page: str, title: str) -> str:
    """The figure of this title."""
    (figure,) = re.findall(
        rf"<figure[^>]*><figcaption><span lang=en>{re.escape(title)}<.*?</figure>", page, re.DOTALL
    )
    return str(figure)


def test_ten_thousand_steps_with_faults_and_kills_stay_below_300_kilobytes() -> None:
    faults = {**dict.fromkeys(range(1000, 1300), "missing sample"), **dict.fromkeys(range(5000, 5100), "nan")}
    page = run_page(made_run(10_000, kills=(3100, 6200), faults=faults))
    assert 50_000 < len(page.encode()) < 300_000
    assert "300 of 10,000 steps differ from the plan." in page


@pytest.mark.parametrize(
    ("how", "kind", "en", "zh"),
    [
        ({}, "good", "It foots: all 50 steps trained what was planned: 1,600 samples", "对得上：全部 50 步"),
        (
            {"done": 20, "ending": Ending("stop_after", 20, 0, 20)},
            "good",
            "It foots: the first 20 of 50 steps",
            "50 步中的前 20 步",
        ),
        (
            {"done": 20, "status": "running"},
            "plain",
            "It is running: 20 of 50 steps done, and those foot.",
            "正在运行：已完成 20/50 步",
        ),
        ({"done": 20, "status": "killed"}, "plain", "It was killed: 20 of 50", "被强制终止：已完成 20/50 步"),
        ({"done": 0, "status": "starting"}, "plain", "It is starting: no step is done yet.", "正在启动"),
        (
            {"done": 20, "ending": Ending("signal", 20, 75, 50)},
            "plain",
            "It was stopped by a signal: 20 of 50",
            "收到信号后停止",
        ),
        ({"faults": MISSING}, "bad", "It does not foot: 3 causes.", "对不上：共 3 处原因。"),
        (
            {"faults": MISSING, "done": 20, "status": "running"},
            "bad",
            "It does not foot: 2 causes; 20 of 50 steps done.",
            "对不上：共 2 处原因；已完成 20/50 步。",
        ),
    ],
)
def test_the_first_sentence_says_whether_it_foots_and_what_it_does(
    how: dict[str, Any], kind: str, en: str, zh: str
) -> None:
    seen = made_run(50, **how)
    found, words = verdict_words(seen)
    assert found == kind and en in words.en and zh in words.zh
    page = run_page(seen)
    assert page.index(f'<div class="verdict {kind}">') < page.index("<h2>")


def test_why_it_does_not_foot_stands_behind_the_sentence() -> None:
    seen = made_run(50, kills=(30,), faults=MISSING)
    found = list(reasons(seen))
    assert (
        Both(
            "CF710 missing sample: 2 of 1,600 samples (0.125 %)",
            f"CF710 {KINDS['missing sample']}：1,600 个样本中有 2 个（0.125 %）",
        )
        in found
    )
    assert (
        Both("10 steps of 2 attempts lost and computed again", "共启动 2 次，丢失 10 步，均已重新计算")
        in found
    )
    read = text_of(run_page(seen), "zh-CN")
    assert (
        "第 8、9 步，rank 1" in read and "有意接受的问题" in read and "measured on &lt;our&gt; data" in read
    )


def test_a_dry_run_says_that_it_is_one() -> None:
    assert "It is a dry run" in run_page(made_run(3, is_dry=True))
    assert "It is a dry run" not in run_page(made_run(3))


@pytest.mark.parametrize(
    "how",
    [
        {"steps": 1},
        {"steps": 3, "faults": dict.fromkeys(range(3), "nan")},
        {"steps": 3, "ranks": 1},
        {"steps": 3, "ranks": 1024, "batch": 2048},
        {"steps": 3, "ranks": 1024, "batch": 2048, "faults": {1: "missing sample"}},
        {"steps": 9, "done": 0, "status": "starting"},
        {"steps": 300, "attempt": {"origins": {}, "versions": {}, "hosts": ()}},
    ],
    ids=str,
)
def test_whatever_the_run_is_there_is_a_page(how: dict[str, Any]) -> None:
    seen = made_run(**how)
    page = run_page(seen)
    assert "<h2><span lang=en>Receipt<" in page and "<h2><span lang=en>Environment<" in page
    both = side_by_side_page([seen, made_run(5, batch=16, name="b")])
    assert "2 runs side by side" in both


def test_losses_are_means_over_tokens_and_what_is_no_number_is_a_gap() -> None:
    nan = math.nan
    losses, tokens = [1.0, 4.0, nan, 2.0, nan, nan], [30, 10, 10, 10, 5, 5]
    points = curve(range(6), [a * b for a, b in zip(losses, tokens, strict=True)], tokens, 3, True)
    assert points[0] == (0.5, 1.75, 1.0, 4.0)
    assert points[1] == (2.5, 2.0, 2.0, 2.0)
    assert points[2].x == 4.5 and math.isnan(points[2].y)
    few = curve([1, 2], [4.0, 1.0], [2.0, 0.0], 9, True)
    assert few[0] == (1, 2.0, None, None) and math.isnan(few[1].y)


def test_a_step_that_is_not_as_planned_is_a_dot_and_is_counted() -> None:
    page = run_page(made_run(50, faults=MISSING))
    samples = drawn(page, "Samples in each step")
    assert "2 of 50 steps differ from the plan." in samples
    dots, _legend = re.findall(r'<path class="dots c1" d="((?:M\d+ \d+h0)+)"', samples)
    assert dots.count("M") == 2
    assert "In every step as planned." in drawn(run_page(made_run(50)), "Samples in each step")


def test_tokens_and_padding_are_those_of_the_lines() -> None:
    seen = made_run(50)
    slots = sum(one.token_slots for one in seen.steps)
    share = 50 * 32 * TOKENS / slots
    assert f"{slots:,} token slots were computed: {share:.1%} held a token" in text_of(run_page(seen))


def test_of_many_ranks_the_page_says_what_the_ledger_does_not_keep() -> None:
    assert "30 of 30 steps were as planned on many ranks" in run_page(made_run(30, ranks=64, batch=64))
    assert "were as planned on many ranks" not in run_page(made_run(30, ranks=4))
    assert "One rank computed everything." in run_page(made_run(30, ranks=1))


def test_every_number_of_the_plan_has_its_origin() -> None:
    rows = {str(getattr(name, "en", name)): (value, origin) for name, value, origin in plan_rows(made_run(5))}
    assert rows["= samples per optimizer step"] == ("32", "batch.global_batch_size · configs/made.yaml:12")
    default = Both("batch.micro_batch_size · default", "batch.micro_batch_size · 默认值")
    assert rows["samples per GPU per forward"] == ("4", default)
    assert rows["× forwards per step"][1] == Both(
        "solved: the smallest that holds the batch", "由其余两项求出的最小值"
    )
    older = plan_rows(made_run(5, attempt={"origins": {}}))
    assert "batch.global_batch_size" in [origin for _, _, origin in older], "an older run has noted none"
    uneven = {
        name.en: origin for name, _, origin in plan_rows(made_run(5, batch=30)) if isinstance(name, Both)
    }
    free = uneven["samples per optimizer step"]
    assert isinstance(free, Both) and free.en.endswith("; 2 places left free") and "空出 2 个位置" in free.zh


def test_runs_side_by_side_show_only_the_settings_that_differ() -> None:
    runs = [made_run(20, batch=16, name="a"), made_run(20, batch=32, name="b")]
    rows = {row[0]: row[1:] for row in differing_rows(runs)}
    assert rows["batch.global_batch_size"] == ("16", "32")
    assert "run.seed" not in rows and "model.path" not in rows
    read = text_of(side_by_side_page(runs))
    assert "All 2 foot." in read and read.count("|a|") >= 3
    mixed = text_of(side_by_side_page([runs[0], made_run(20, faults=MISSING, name="c")]))
    assert "1 of 2 runs foot." in mixed and "c: It does not foot: 2 causes." in mixed
    assert "638 (-2)" in mixed, "the receipt shows how far off the plan it was"


def test_two_runs_of_one_name_are_called_by_their_folders() -> None:
    runs = [made_run(2, name="a"), made_run(2, name="b"), made_run(2, name="a")]
    assert labels(runs) == ["runs/a", "runs/b", "runs/a"]
    assert labels(runs[:2]) == ["a", "b"]


def test_the_noise_scale_is_shown_as_it_was_measured_and_not_at_all_where_it_was_not() -> None:
    lines = [
        NoiseLine(step, 1, True, 8, (30, 50), (4.0 + step % 3 / 10, 4.4), 2.5 + step % 2 / 20)
        for step in range(12)
    ]
    noise = run_noise(lines)
    assert noise.total.samples is not None
    page = run_page(made_run(12, noise=noise))
    (samples,) = re.findall(r"^(\S+) samples", noise.figures)
    assert f'<td class="number">{samples}</td>' in page
    few = run_page(made_run(12, noise=run_noise(lines[:2])))
    assert "<td>n/a</td>" in few and "Gradient noise scale" not in run_page(made_run(12))


def test_evaluations_of_a_run_are_drawn_over_its_samples(tmp_path: Path) -> None:
    Job(tmp_path, six_samples(), STEPS).run(3, ending=FINISHED)
    for step, right in ((1, 2), (3, 6)):
        task = TaskScore("exam", 12, 8, right)
        append_evaluation(
            str(tmp_path), RunEvaluation(step, 1, f"evaluations/step-{step}", "5" * 64, (task,))
        )
    page = run_page(see_run(str(tmp_path)))
    figure = drawn(page, "exam: accuracy")
    (places,) = re.findall(r'<path class="dots c0" d="([^"]*)"/></svg><span', figure)
    assert places == "M667 917h0M2000 83h0", "25 % after 2 samples and 75 % after 6, between 20 and 80 %"
    assert "|step-3|" in text_of(page) and "|75.0 %|" in text_of(page) and "|step-1|" not in text_of(page)
    assert "Evaluations" not in text_of(run_page(made_run(5)))


def test_every_word_of_receipts_and_attempts_has_its_chinese() -> None:
    assert {*planned_of_steps(()), OTHER_SAMPLES, OTHER_LAYOUT} == set(ROWS)
    assert row_words("trained tokens of a.json") == Both("trained tokens of a.json", "训练 token 数：a.json")
    assert set(KINDS) == set(CAUSE_KINDS)
    assert all(isinstance(end_words(how), Both) for how in {*HOW, *REASONS})
    kinds = ("missing sample", "rate differs", "nan")
    seen = made_run(400, faults={step: kinds[step % 3] for step in range(0, 400, 7)})
    for one in seen.receipt.summary:
        assert isinstance(amount_words(one.amount), Both), one.amount
        assert isinstance(where_words(one.where), Both), one.where
    assert amount_words(
        "at least 8 of 9 steps (less than 0.001 %), 0.5 to 10 times as much as planned"
    ) == Both(
        "at least 8 of 9 steps (less than 0.001 %), 0.5 to 10 times as much as planned",
        "9 步中有至少 8 步（不到 0.001 %），为计划值的 0.5–10 倍",
    )


def test_what_a_cause_makes_of_the_weights_and_the_notes_of_most_runs_are_in_both_languages() -> None:
    said = {words for page in CAUSE_PAGES.values() for words in (page.weights, page.weights_many) if words}
    assert [words for words in said if not isinstance(weight_words(words), Both)] == []
    assert weight_words("not usable: an update was made from it").zh == "不可用"
    for ending in (None, Ending("signal", 4, 75, 9), Ending("patience", 4, 0, 9)):
        seen = made_run(9, done=4, ending=ending, status="ended" if ending else "killed")
        notes = [note for note in seen.receipt.notes if not note.startswith("the run says it ended for")]
        assert [note for note in notes if not isinstance(note_words(note), Both)] == []
    held = "the index was held against its files: 200 of 1,417 records re-tokenised, none differs"
    assert note_words(held) == Both(
        held, "数据索引已与原始文件核对：重新分词 1,417 条记录中的 200 条，全部一致"
    )


def test_the_verb_writes_the_page_into_the_folder_and_replaces_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Job(tmp_path / "job", six_samples(), STEPS).run(2, torn_bytes=9)
    assert main(["report", str(tmp_path / "job")]) == 0
    page = tmp_path / "job" / "page.html"
    assert f"page: {page}\n" in capsys.readouterr().out
    read = text_of(page.read_text(encoding="utf-8"))
    assert "2 of 3 steps done, and those foot." in read and "is unfinished" in read
    Job(tmp_path / "job", six_samples(), STEPS).run(3, first_step=2, ending=FINISHED)
    assert main(["report", str(tmp_path / "job")]) == 0
    assert "all 3 steps trained what was planned" in text_of(page.read_text(encoding="utf-8"))


def test_the_verb_touches_nothing_that_it_did_not_make(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "job"
    Job(job, six_samples(), STEPS).run(3, ending=FINISHED)
    mine = job / "page.html"
    mine.write_text("<!doctype html>\nmine", encoding="utf-8")
    assert main(["report", str(job)]) == 1
    assert mine.read_text(encoding="utf-8") == "<!doctype html>\nmine"
    said = capsys.readouterr().out
    assert "CF794" in said and f"crossfoot report {job} -o {job}/page-2.html" in said
    assert main(["report", str(job), "-o", str(tmp_path)]) == 1
    assert "CF794" in capsys.readouterr().out
    assert main(["report", str(job), "-o", str(tmp_path / "none" / "page.html")]) == 1
    assert "CF795" in capsys.readouterr().out and not (tmp_path / "none").exists()
    assert main(["report", str(job), "-o", f"{job}/page-2.html"]) == 0 and (job / "page-2.html").exists()


def test_several_runs_go_into_one_page_here_and_one_that_is_named_twice_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        Job(tmp_path / name, six_samples(), STEPS).run(3, ending=FINISHED)
    monkeypatch.chdir(tmp_path)
    assert main(["report", "a", "b", "./a"]) == 0
    read = text_of((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "2 runs side by side" in read and "|a|" in read and "|b|" in read


@pytest.mark.parametrize("damage", ["none", "ledger", "lock"])
def test_what_receipt_refuses_report_refuses_with_the_same_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    job = tmp_path / "job"
    Job(job, six_samples(), STEPS).run(3, ending=FINISHED)
    if damage == "ledger":
        (job / "ledger.jsonl").write_text("{}\n", encoding="utf-8")
    elif damage == "lock":
        (job / "plan.lock.json").write_text("{", encoding="utf-8")
    folder = str(job if damage != "none" else tmp_path / "another")
    codes = []
    for verb in ("receipt", "report"):
        assert main([verb, folder]) == 2
        codes.append(re.findall(r"CF\d+", capsys.readouterr().out))
    assert codes[0] == codes[1] != [] and not (job / "page.html").exists()


def test_a_folder_is_seen_as_its_receipt_has_it(tmp_path: Path) -> None:
    job = Job(tmp_path, six_samples(), STEPS)
    job.run(2)
    job.run(3, first_step=1, ending=FINISHED)
    seen = see_run(str(tmp_path))
    assert [one.step for one in seen.steps] == [0, 1, 2] and list(seen.samples) == [2, 4, 6]
    assert [seen.samples_after(step) for step in (0, 1, 3, 4)] == [0, 2, 6, None]
    assert seen.receipt.lost_steps == 1 and seen.state.status == "ended"


def test_a_study_has_a_page_of_its_own_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    results = made_study(seeds=2)
    Path("study").mkdir()
    Path("study", "study.json").write_text("{}", encoding="utf-8")
    assert main(["report", "study"]) == 2 and "CF577" in capsys.readouterr().out
    write_results("study", results)
    assert main(["report", "study/"]) == 0
    said = capsys.readouterr().out
    assert sentence(answer(results)).en in said and said.endswith("page: study/page.html\n")
    assert "warning[CF225]: the best rate of batches of 16, 32 and 256 is" in said
    assert study_page(results, answer(results)) in Path("study", "page.html").read_text(encoding="utf-8")
    assert main(["report", "study"]) == 0, "it replaces its own page"
    written = Path("study", "answer.json").read_text(encoding="utf-8")
    assert main(["report", "study", "--target-loss", "2.5", "-o", "other.html"]) == 0
    assert "until a validation loss of 2.500, as was asked" in capsys.readouterr().out
    assert Path("study", "answer.json").read_text(encoding="utf-8") == written
    assert main(["report", "study", "--target-loss", "2.5"]) == 0
    assert '"target": 2.5' in Path("study", "answer.json").read_text(encoding="utf-8")
    assert main(["report", "job", "--target-loss", "2.5"]) == 2
    assert main(["report", "study", "--target-loss", "0"]) == 2
    Job(tmp_path / "job", six_samples(), STEPS).run(3, ending=FINISHED)
    assert main(["report", "job", "study"]) == 1
    assert "CF796" in capsys.readouterr().out and not Path("report.html").exists()
