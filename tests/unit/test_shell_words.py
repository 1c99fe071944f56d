"""Every command that is suggested can be pasted: its words come through a shell, whatever a path is."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import crossfoot
from crossfoot.checkpoints.findings import no_checkpoint
from crossfoot.findings.finding import Finding
from crossfoot.launch import findings as launch_findings
from crossfoot.launch.submit import advice
from crossfoot.ledger.findings import ledger_shared
from crossfoot.liveness.findings import run_lives
from crossfoot.liveness.heartbeats import Heartbeat
from crossfoot.runs import resume, run_folder
from crossfoot.runs.resume_command import resume_command
from crossfoot.shell_words import joined, path_word, quoted, quoted_path, unused_path
from crossfoot.written.git_lfs import fetching
from crossfoot.written.overriding import another_run_dir, setting
from crossfoot.written.run_file import RunFile, load_run

NASTY = "runs/my run; $x 'q' 中文　\"`a`\" *"
CONFIG = """\
run: {name: t}
model: {path: "builtin:tiny"}
data: {train: [x.jsonl]}
batch: {micro_batch_size: 2, grad_accum_steps: 2}
cluster: {num_nodes: 2, gpus_per_node: 1}
lr: {reference: 1.0e-3}
train: {max_steps: 2}
"""


@pytest.mark.parametrize(
    "word", ["a", "", "a b", "$HOME", "'", "中文", "~", "-x", "a;b", "%s", "\u3000", "!x", "#"]
)
def test_a_word_comes_back(word: str) -> None:
    said = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {joined([word, 'behind'])}"], capture_output=True, check=True
    )
    assert said.stdout.decode().split("\0")[:-1] == [word, "behind"]


@pytest.mark.parametrize(("path", "word"), [("-x/y", "./-x/y"), ("~/y", "./~/y"), ("x", "x"), ("/x", "/x")])
def test_a_path_is_no_option_and_nobody_s_home(path: str, word: str) -> None:
    assert path_word(path) == word
    assert shlex.split(quoted_path(path)) == [word]


@pytest.mark.parametrize("text", [NASTY, "a: b", "1", "null", "a, b", "[x]", "1e3", "#", "~/x", "a b"])
def test_an_override_says_what_it_should(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    (word,) = shlex.split(quoted(setting("tracking.project", text)))
    assert load_run(str(tmp_path / "c.yaml"), [word]).config.tracking.project == text


def test_an_unused_name_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a-2").mkdir()
    (tmp_path / "a-3").symlink_to("nowhere")
    assert unused_path(str(tmp_path / "a")) == str(tmp_path / "a-4")


def commands_of(text: str) -> list[list[str]]:
    """The words of the command at the end of a text; bash must be able to read it."""
    command = text.partition(": ")[2] or text
    subprocess.run(["bash", "-n", "-c", command], check=True)
    return [shlex.split(command, comments=True)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFile:
    monkeypatch.chdir(tmp_path)
    Path(NASTY).mkdir(parents=True)
    Path("my c; $x.yaml").write_text(CONFIG)
    return load_run("my c; $x.yaml", [setting("run.dir", NASTY)])


BEAT = Heartbeat(1, 0, "host", 7, "training", 1, 1, 0.0, 1.0)
MAKERS: tuple[Callable[[RunFile], Finding], ...] = (
    run_folder.folder_in_use,
    lambda run: run_folder.foreign_files(run, ["a"]),
    lambda run: run_folder.attempt_taken(run, 2),
    lambda run: resume.already_finished(run, 2),
    lambda run: no_checkpoint(run.run_dir),
    lambda run: ledger_shared(f"{run.run_dir}/ledger.jsonl", ()),
    lambda run: run_lives(run.run_dir, run.path, 1, [BEAT]),
    lambda run: launch_findings.job_still_queued("7", "RUNNING", run.run_dir),
    lambda run: launch_findings.ended_unsaid("it ended", run.run_dir),
    lambda run: launch_findings.cluster_unknown(run, ["cluster.num_nodes"], "local"),
    lambda run: launch_findings.one_machine_only(run, 2),
)


@pytest.mark.parametrize("maker", MAKERS)
def test_the_commands_of_a_finding_name_the_path_whole(
    maker: Callable[[RunFile], Finding], run: RunFile
) -> None:
    finding = maker(run)
    commands = [
        text for text in (*finding.notes, *finding.helps) if re.search(r"crossfoot |run\.dir=|mv ", text)
    ]
    assert commands
    for text in commands:
        (words,) = commands_of(text)
        assert any(NASTY in word or word == run.path for word in words), text


def test_words_that_are_no_findings(run: RunFile) -> None:
    assert commands_of(resume_command(NASTY, run.path))[0][-1] == NASTY
    assert shlex.split(another_run_dir(NASTY))[0].startswith("run.dir=")
    assert NASTY in shlex.split(advice("7", NASTY).splitlines()[0])
    assert shlex.split(fetching(f"{NASTY}/file"))[-3] == NASTY


SAFE = {"quoted", "quoted_path", "joined", "resume_command", "another_run_dir", "called", "install_command"}
HARMLESS = {"N", "job_id", "cause.code", "causes[0].code", "state.footed.causes[0].code", "AUTO", "target"}
"""Numbers, codes and words of crossfoot's own."""
COMMAND = re.compile(
    r"(?:crossfoot (?:plan|check|index|train|launch|prove|receipt|export|watch|explain) |--continue |"
    r"\bmv |\bcp |tail -F |git -C |run\.dir=|scancel |curl -fLO )$"
)


def unquoted(path: Path) -> Iterator[str]:
    """Values that an f-string puts behind the beginning of a command, and that no function has quoted."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assigned = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and is_safe(node.value, set())
        for target in (node.targets[0].elts if isinstance(node.targets[0], ast.Tuple) else node.targets)
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr):
            continue
        before = ""
        for part in node.values:
            if isinstance(part, ast.Constant):
                before += str(part.value)
            elif isinstance(part, ast.FormattedValue):
                if COMMAND.search(before) and not is_safe(part.value, assigned):
                    yield f"{path.name}:{node.lineno}: {before}{{{ast.unparse(part.value)}}}"
                before = before.rstrip() + " "  # the command goes on behind a value


def is_safe(value: ast.expr, assigned: set[str]) -> bool:
    if isinstance(value, ast.Tuple):
        return all(is_safe(one, assigned) for one in value.elts)
    if isinstance(value, ast.JoinedStr):
        return all(
            is_safe(part.value, assigned) for part in value.values if isinstance(part, ast.FormattedValue)
        )
    if isinstance(value, ast.Call):
        return isinstance(value.func, ast.Name) and value.func.id in SAFE
    return ast.unparse(value) in HARMLESS or (isinstance(value, ast.Name) and value.id in assigned)


def test_no_text_has_a_command_with_a_bare_value() -> None:
    found = [text for path in Path(crossfoot.__file__).parent.rglob("*.py") for text in unquoted(path)]
    assert not found


def test_no_text_and_no_page_deletes() -> None:
    root = Path(crossfoot.__file__).parents[2]
    pages = [*root.glob("docs/*.md"), root / "README.md", root / "CONTRIBUTING.md"]
    texts = [*Path(crossfoot.__file__).parent.rglob("*.py"), *pages]
    assert len(texts) > 200
    deletes = re.compile(r"\brm -|\brm [\"'{]|rmdir [{/]|\bunlink [{/]|shred |--delete")
    found = [
        f"{path.name}: {line.strip()}"
        for path in texts
        for line in path.read_text(encoding="utf-8").splitlines()
        if deletes.search(line) and 'rm "$DS_ENV_FILE"' not in line
    ]
    assert not found
