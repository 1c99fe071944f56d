"""What `crossfoot launch` renders: the very text, read back by bash and by crossfoot's own readers."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import string
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from crossfoot.cli import _parser, main
from crossfoot.environment.forwarding import FORWARDED
from crossfoot.launch import verb
from crossfoot.launch.outcome import Outcome
from crossfoot.launch.resolving import make_job, node_rank_of, read_run_for
from crossfoot.launch.shell_text import Raw, command_text, comment, directive, word_over_ssh
from crossfoot.launch.verb import options_of, rendered_for
from crossfoot.written.launch.batch_script import read_directives
from crossfoot.written.launch.command_line import over_ssh
from crossfoot.written.source import Source
from ledger_cases import Job as Told
from ledger_cases import six_samples
from support.launching import ROOT, small_config, without_runs

EXAMPLES = sorted(path for path in (ROOT / "launch").iterdir() if path.suffix in (".sh", ".sbatch"))
MADE_BY = "# made by: crossfoot "
ODD_WORDS = (
    "run.name=a b",
    "run.name=it's",
    'run.name="quoted"',
    "run.name=$HOME`id`",
    "run.name=a;b&c|d",
    "run.name=50% %n %%",
    "run.name=back\\slash \\$x",
    "run.name=山水 *",
    "data.train=[a.json, b.json]",
    "run.name=~/x#y!z",
    "run.name=a\tb",
    "run.name={a,b}(c)<d>",
)
TARGETS = {
    "local": ("local", ()),
    "pdsh": ("deepspeed", ("--hostfile", "hosts")),
    "no-ssh": ("deepspeed", ("--no-ssh", "--hostfile", "hosts")),
    "slurm": ("slurm", ("--time", "1:00:00", "--partition", "p", "--account", "a", "--cpus-per-task", "2")),
    "slurm-torchrun": ("slurm", ("--tasks", "node", "--signal-seconds", "60")),
    "torchrun": ("torchrun", ("--address", "n1")),
    "accelerate": ("accelerate", ("--address", "n1")),
    "dry-run": ("accelerate", ("--dry-run",)),
}


UNEQUAL = "cluster.gpus_per_node=[4, 1]"
STARTS_UNEQUAL = {kind: TARGETS[kind] for kind in ("pdsh", "no-ssh", "slurm", "torchrun", "dry-run")}


@pytest.fixture(autouse=True)
def plain_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this shell gets into what is rendered, and PATH leads to this python."""
    for name in (*FORWARDED, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a config of 2 nodes x 4 GPUs, and its hostfile; the working directory."""
    monkeypatch.chdir(tmp_path)
    small_config(tmp_path, cluster={"num_nodes": 2, "gpus_per_node": 4}, run={"dir": "runs/small"})
    Path("hosts").write_text("n1 slots=4\nn2 slots=4\n")
    Path("unequal").write_text("n1 slots=4\nn2 slots=1\n")
    return tmp_path


def _nodes(kind: str) -> tuple[str, ...]:
    return ("cluster.num_nodes=1",) if kind == "local" else ()


def _printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["launch", "config.yaml", *words, "--print"]) == 0
    return capsys.readouterr().out


def _first(printed: str) -> str:
    """The first of the files that were printed."""
    if not printed.startswith("# ----"):
        return printed
    return printed.split("# ----")[1].partition("\n")[2]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_what_is_rendered_today(
    example: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make launch-examples` makes them anew."""
    monkeypatch.chdir(ROOT)
    text = example.read_text(encoding="utf-8")
    command = next(line for line in text.splitlines() if line.startswith(MADE_BY)).removeprefix(MADE_BY)
    words = shlex.split(command)
    assert words[-2:] == ["--write", str(example.relative_to(ROOT).with_suffix(""))]
    assert main([*words, "--print"]) == 0
    printed = capsys.readouterr().out
    settings = example.with_suffix(".yaml")
    if settings.exists():
        names = (example.relative_to(ROOT), settings.relative_to(ROOT))
        parts = (text, settings.read_text(encoding="utf-8"))
        text = "".join(f"# ---- {name}\n{part}" for name, part in zip(names, parts, strict=True))
    assert printed == text


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_run_by_bash_and_checked_by_crossfoot(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(without_runs(tmp_path))
    assert subprocess.run(["bash", "-n", example], check=False).returncode == 0
    config = next(
        word for word in example.read_text().split() if word.startswith("configs/") and word.endswith(".yaml")
    )
    assert main(["check", config, str(example.relative_to(ROOT))]) == 0
    codes = set(re.findall(r"\[(CF\d+)\]", capsys.readouterr().out))
    assert codes <= {"CF060"}, "nothing found, but that the model of a hub is not here"


def test_a_way_to_start_is_shown_for_every_target() -> None:
    told = " ".join(path.read_text(encoding="utf-8") for path in EXAMPLES)
    for target in ("local", "deepspeed", "slurm", "accelerate", "torchrun"):
        assert f"--to {target}" in told


@pytest.mark.parametrize("kind", TARGETS)
def test_what_is_rendered_gives_no_finding(
    folder: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """Written, read back by `check`, with words of every sort behind the config."""
    target, options = TARGETS[kind]
    words = [*_nodes(kind), "run.name=it's a $HOME 50% run", "run.seed=3", "data.train=[data.jsonl]"]
    assert main(["launch", "config.yaml", *words, "--to", target, *options, "--write", "odd name"]) == 0
    written = capsys.readouterr().out.splitlines()
    for path in written:
        assert main(["check", "config.yaml", path if "/" in path else f"./{path}"]) == 0
        assert "nothing found" in capsys.readouterr().out
        if not path.endswith(".yaml"):
            assert main(["check", "config.yaml", *words, f"./{path}"]) == 0
            assert "nothing found" in capsys.readouterr().out


@pytest.mark.parametrize("kind", STARTS_UNEQUAL)
@pytest.mark.parametrize("device", ["", "cpu"])
def test_what_is_rendered_for_unequal_nodes_gives_no_finding(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str, device: str
) -> None:
    """The plan that the files are checked against is the config's, and the one of the command itself."""
    monkeypatch.setenv("DS_ACCELERATOR", device)
    target, options = STARTS_UNEQUAL[kind]
    options = tuple("unequal" if option == "hosts" else option for option in options)
    assert main(["launch", "config.yaml", UNEQUAL, "--to", target, *options, "--write", "it"]) == 0
    written = capsys.readouterr().out.splitlines()
    text = Path(written[0]).read_text()
    assert f"# small: 2 nodes with 4 + 1 {'CPU rank' if device else 'GPU'}s = 5 ranks, " in text
    assert f"# made by: crossfoot launch config.yaml '{UNEQUAL}' --to {target}" in text
    for path in written:
        for words in ((UNEQUAL,), () if path.endswith(".sh") else (UNEQUAL,)):
            assert main(["check", "config.yaml", *words, f"./{path}"]) == 0
            assert "nothing found" in capsys.readouterr().out
    if kind != "dry-run":
        assert main(["check", "--strict", "config.yaml", "cluster.gpus_per_node=5", f"./{written[0]}"]) == 1


@pytest.mark.parametrize(("node", "ranks"), [("0", "4"), ("1", "1")])
def test_torchrun_starts_as_many_ranks_as_its_node_has(
    folder: Path, capsys: pytest.CaptureFixture[str], node: str, ranks: str
) -> None:
    words = ("--to", "torchrun", "--hostfile", "unequal", "--node-rank", node)
    text = _printed(capsys, UNEQUAL, *words)
    Path("it.sh").write_text(text)
    environ = {"PATH": f"{_python_that_shows(folder, 'torchrun')}:/usr/bin:/bin"}
    done = subprocess.run(["bash", "it.sh", node], env=environ, capture_output=True, text=True, check=True)
    given = json.loads(done.stdout)
    assert given[:6] == ["--nnodes", "2", "--nproc-per-node", ranks, "--rdzv-backend", "c10d"]
    without = subprocess.run(["bash", "it.sh"], env=environ, capture_output=True, text=True, check=False)
    assert without.returncode and "say which host this is" in without.stderr


def test_slurm_is_told_the_tasks_in_all(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each task brings its GPU to its node, and sees those of the others there."""
    text = _printed(capsys, UNEQUAL, "--to", "slurm")
    asked = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert asked[1:4] == ["--nodes=2", "--ntasks=5", "--gpus-per-task=1"]
    assert "\nsrun python -u \\\n" in text
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    text = _printed(capsys, UNEQUAL, "--to", "slurm")
    assert "--ntasks=5\n" in text and "gpu" not in text.replace(UNEQUAL, "")
    assert "\nsrun python -u " in text


def test_a_launch_knows_its_node_by_the_hostfile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["launch", "config.yaml", UNEQUAL, "--to", "torchrun", "--hostfile", "unequal"]
    options = options_of(_parser()[0].parse_args(words))
    job = make_job(read_run_for("config.yaml", [UNEQUAL], options), [UNEQUAL], options, {})
    assert job.is_numbered
    monkeypatch.setattr("socket.gethostname", lambda: "n2.cluster")
    job = replace(job, options=replace(options, node_rank=node_rank_of(job)))
    assert rendered_for(job).command == ("bash", "runs/small/launch/torchrun.sh", "1")


@pytest.mark.parametrize("kind", TARGETS)
def test_continue_and_allow_stand_in_the_command(
    folder: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    target, options = TARGETS[kind]
    if kind == "dry-run":
        pytest.skip("a dry run begins at the beginning")
    words = ("--continue", "runs/old one", "--allow", "lr.reference", "--allow", "train.epochs")
    text = _first(_printed(capsys, *_nodes(kind), "--to", target, *options, *words))
    command = text.replace(" \\\n  ", " ").splitlines()
    line = next(line for line in command if " train config.yaml" in line)
    expected = "--continue 'runs/old one' --allow lr.reference --allow train.epochs"
    if kind == "pdsh":
        assert over_ssh("runs/old one") == "runs/old one"
    assert line.endswith(expected)


def test_a_run_elsewhere_than_the_config_says_is_continued(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_rank = {"num_nodes": 1, "gpus_per_node": 1}
    small_config(folder, cluster=one_rank, deepspeed=None, run={"dir": "runs/small"})
    Told(Path("runs/elsewhere"), six_samples(), [[(0, 0), (0, 1)]]).run(1)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    started: list[str] = []
    monkeypatch.setattr(verb, "start", lambda rendered, job: started.append(job.run_dir) or Outcome(0))
    assert main(["launch", "config.yaml", "--to", "local", "--continue", "runs/elsewhere"]) == 0
    assert started == ["runs/elsewhere"]


def test_slurm_writes_what_was_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = _printed(
        capsys,
        *("--to", "slurm", "--partition", "gpu", "--account", "lab 1", "--time", "2:00:00"),
        *("--cpus-per-task", "3", "--signal-seconds", "300"),
    )
    assert (
        text
        == """\
#!/bin/bash
# small: 2 nodes x 4 GPUs = 8 ranks, by SLURM, one task a rank
# made by: crossfoot launch config.yaml --to slurm --partition gpu --account 'lab 1' --time 2:00:00 \
--cpus-per-task 3 --signal-seconds 300
# submit with: mkdir -p runs/small && sbatch runs/small/launch/slurm.sbatch
#SBATCH --job-name=small
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=3
#SBATCH --time=2:00:00
#SBATCH --partition=gpu
#SBATCH --account="lab 1"
#SBATCH --output=runs/small/slurm-%j.log
#SBATCH --signal=USR1@300
#SBATCH --open-mode=append
#SBATCH --requeue

export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
# each task is a rank; before the time limit SLURM sends all of them SIGUSR1
srun python -u \\
  -m crossfoot train config.yaml
code=$?
# stopped by a signal, with a checkpoint: queue the job again; it goes on from there
if [ $code -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $code
"""
    )


def test_on_cpus_no_gpus_are_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    text = _printed(capsys, "--to", "slurm")
    assert "gpus" not in text.replace("--gpus-per-node", "gpus")
    assert "export DS_ACCELERATOR=cpu\nexport OMP_NUM_THREADS=2\n" in text
    assert "# small: 2 nodes x 4 CPU ranks = 8 ranks" in text
    assert "use_cpu: true" in _printed(capsys, "--to", "accelerate", "--dry-run")


def test_gpus_that_are_shown_are_the_ones_that_are_used(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """deepspeed would ignore the variable beside --num_gpus, and take GPUs 0 to 3."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    text = _printed(capsys, "cluster.num_nodes=1", "--to", "local")
    assert "exec deepspeed --quiet --include localhost:4,5,6,7 --master_port 29500 \\" in text
    assert "--num_gpus" not in text
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,5,3,2,1,0")
    text = _printed(capsys, "cluster.num_nodes=1", "--to", "local")
    assert "--include localhost:7,5,3,2 --master_port" in text, "no more than the plan has"
    for wrong in ("4,5", "GPU-1,GPU-2,GPU-3,GPU-4"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", wrong)
        assert main(["launch", "config.yaml", "cluster.num_nodes=1", "--to", "local", "--print"]) == 1
        assert "error[CF495]" in capsys.readouterr().out


def test_a_hostfile_of_one_host_is_still_reached_over_ssh(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Alone in the file, deepspeed would take the host for this machine, whatever its name."""
    Path("one").write_text("elsewhere slots=4\n")
    text = _printed(capsys, "cluster.num_nodes=1", "--to", "deepspeed", "--hostfile", "one")
    assert "--force_multi" in text


def test_a_hostfile_says_the_cluster(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("cluster.num_nodes=null", "cluster.gpus_per_node=null", "--to")
    text = _printed(capsys, *words, "deepspeed", "--hostfile", "hosts")
    assert "2 nodes x 4 GPUs = 8 ranks" in text
    text = _printed(capsys, *words, "deepspeed", "--hostfile", "unequal")
    assert "2 nodes with 4 + 1 GPUs = 5 ranks" in text
    text = _printed(capsys, *words, "torchrun", "--hostfile", "hosts")
    assert "--nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint n1:29500" in text


def test_the_interpreter_is_named_where_path_leads_elsewhere(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    own = Path(sys.executable).parent
    assert f"srun {own}/python -u" in _printed(capsys, "--to", "slurm")
    assert f"exec {own}/torchrun " in _printed(capsys, "--to", "torchrun", "--address", "n1")


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        (("cluster.num_nodes=null", "--to", "slurm"), "CF480", 1),
        (("cluster.gpus_per_node=null", "--to", "local"), "CF480", 1),
        (("--to", "deepspeed"), "CF481", 1),
        (("--to", "deepspeed", "--no-ssh"), "CF481", 1),
        (("--to", "local"), "CF484", 1),
        (("--to", "torchrun"), "CF485", 1),
        (("--to", "accelerate"), "CF485", 1),
        (("--to", "local", "cluster.num_nodes=1", "--partition", "p"), "CF483", 2),
        (("--to", "slurm", "--hostfile", "hosts"), "CF483", 2),
        (("--to", "slurm", "--dry-run"), "CF483", 2),
        (("--to", "accelerate", "--steps", "2"), "CF483", 2),
        (("--to", "torchrun", "--hostfile", "hosts", "--node-rank", "1"), "CF483", 2),
        (("--to", "slurm", UNEQUAL, "--tasks", "node"), "CF496", 1),
        (("--to", "accelerate", UNEQUAL, "--address", "n1"), "CF496", 1),
        (("--to", "deepspeed", UNEQUAL, "--hostfile", "hosts"), "CF453", 1),
        (("--to", "deepspeed", "cluster.gpus_per_node=[1, 4]", "--hostfile", "unequal"), "CF468", 1),
        (("--to", "slurm", "cluster.gpus_per_node=[4, 4, 4]"), "CF106", 1),
        (("--to", "slurm", "--allow", "lr.refrence"), "CF744", 1),
        (("--to", "deepspeed", "--hostfile", "three"), "CF452", 1),
        (("--to", "deepspeed", "--hostfile", "unequal"), "CF468", 1),
        (("--to", "deepspeed", "--hostfile", "nowhere"), "CF450", 2),
        (("--to", "slurm", "batch.micro_batch_size=0"), "CF007", 1),
    ],
)
def test_what_cannot_be_started_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: str, exit_code: int
) -> None:
    Path("three").write_text("a slots=4\nb slots=4\nc slots=4\n")
    assert main(["launch", "config.yaml", *words, "--print"]) == exit_code
    said = capsys.readouterr().out
    assert f"error[{code}]" in said
    assert said.count("error[") == 1


def _python_that_shows(folder: Path, *names: str) -> str:
    """A folder with programs that write the words they were given, one JSON list."""
    tools = folder / "tools"
    tools.mkdir()
    for name in names:
        script = f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    return str(tools)


@pytest.mark.parametrize("kind", [kind for kind in TARGETS if kind != "pdsh"])
def test_bash_hands_over_exactly_the_words(folder: Path, kind: str) -> None:
    target, options = TARGETS[kind]
    odd = Path("od'd $dir `x`; #")
    odd.mkdir()
    config = odd / "con fig.yaml"
    config.write_text(Path("config.yaml").read_text())
    arguments = _parser()[0].parse_args(["launch", str(config), "--to", target, *options])
    options = options_of(arguments)
    checked = read_run_for(str(config), _nodes(kind), options)
    job = make_job(checked, _nodes(kind), options, {}, stem=str(odd / "a  b"))
    job = replace(job, words=ODD_WORDS, run_dir=str(odd / "run % dir"), name="山 'n' $name")
    (odd / "run % dir").mkdir()
    path, text = rendered_for(job).files[0]
    Path(path).write_text(text)
    tools = _python_that_shows(folder, "deepspeed", "torchrun", "accelerate", "srun", "scontrol")
    environ = {"PATH": f"{tools}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2"}
    environ |= {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_PER_TASK": "2"}
    done = subprocess.run(["bash", path, "1"], env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    given = json.loads(done.stdout.splitlines()[0])
    assert given[-len(ODD_WORDS) - 2 :] == ["train", str(config), *ODD_WORDS]


def test_variables_for_other_hosts_are_in_no_file(folder: Path) -> None:
    """deepspeed reads DS_ENV_FILE once for the home folder and once for this one."""
    target, options = TARGETS["pdsh"]
    options_given = options_of(_parser()[0].parse_args(["launch", "config.yaml", "--to", target, *options]))
    job = make_job(
        read_run_for("config.yaml", _nodes("pdsh"), options_given),
        _nodes("pdsh"),
        options_given,
        {},
        stem="x",
    )
    path, text = rendered_for(job).files[0]
    Path(path).write_text(text)
    Path(".deepspeed_env").write_text("TOKEN=secret\n")
    home, temporary = Path("home"), Path("temporary")
    home.mkdir()
    temporary.mkdir()
    (home / ".deepspeed_env").write_text("OTHER=more\n")
    tools = Path(_python_that_shows(folder, "deepspeed"))
    (tools / "deepspeed").write_text(
        f"#!{sys.executable}\nimport os\n"
        "name = os.environ['DS_ENV_FILE']\n"
        "for _ in range(2):\n    print(os.path.isfile(name), open(name).read().split())\n"
    )
    environ = {"PATH": f"{tools.resolve()}:/usr/bin:/bin", "HOME": str(home), "TMPDIR": str(temporary)}
    environ |= {"OMP_NUM_THREADS": "3"}
    done = subprocess.run(["bash", path], env=environ, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == second
    for word in ("True", "TOKEN=secret", "OTHER=more", "OMP_NUM_THREADS=3", f"PATH={environ['PATH']}"):
        assert word in first
    assert list(temporary.iterdir()) == []


def _as_remote(words: list[str]) -> list[str]:
    """What deepspeed 0.19 makes of words for pdsh, and a shell on the other side of ssh of them."""
    sent = ['"' + word.replace('"', '\\"') + '"' if " " in word else word for word in words]
    show = "import json, sys; print(json.dumps(sys.argv[1:]))"
    line = " ".join(["exec", shlex.quote(sys.executable), "-c", shlex.quote(show), *sent])
    found = []
    for shell in ("bash", "sh"):
        done = subprocess.run(
            [shell, "-c", line.replace("%%", "%")], capture_output=True, text=True, check=True
        )
        found.append(json.loads(done.stdout))
    assert found[0] == found[1]
    return found[0]


def test_words_over_ssh_arrive_as_they_are() -> None:
    draw = random.Random(5)
    offset_text = string.ascii_letters + string.punctuation + "   \t山%%$`\\\"'"
    words = [*ODD_WORDS, "", *("".join(draw.choices(offset_text, k=draw.randint(1, 12))) for _ in range(300))]
    assert _as_remote([word_over_ssh(word) for word in words]) == words
    for word in words:
        assert over_ssh(word_over_ssh(word)) == (word if word else "")


def test_deepspeed_still_sends_words_as_word_over_ssh_expects() -> None:
    from types import SimpleNamespace

    from deepspeed.launcher.multinode_runner import PDSHRunner

    given = [word_over_ssh(word) for word in ODD_WORDS]
    runner = PDSHRunner(SimpleNamespace(user_args=given, user_script="crossfoot"), "")
    sent = ['"' + word.replace('"', '\\"') + '"' if " " in word else word for word in given]
    assert runner.user_arguments == sent


def test_a_directive_is_read_back_by_its_reader() -> None:
    for value in ("a b", "it's", 'say "x"', "a\\b", "100%#1", "山水"):
        text = f"#!/bin/bash\n{directive('--job-name', value)}\ntrue\n"
        layer, defects = read_directives(Source("x.sbatch", text))
        assert defects == ()
        assert [option.value for option in layer.options] == [value]


def test_a_comment_ends_where_its_line_ends() -> None:
    assert comment("a\nrm -r x\r\x00") == "# a?rm -r x??"
    assert command_text(["a b", Raw('"$node"')], [], ["c"]) == "'a b' \"$node\" \\\n  c"


def test_rendering_imports_nothing_heavy(folder: Path) -> None:
    watched = (
        "import sys\nfrom crossfoot.cli import main\n"
        "main(['launch', 'config.yaml', '--to', 'slurm', '--print'])\n"
        "import crossfoot.launch.verb\n"
        "print({'torch', 'transformers', 'deepspeed', 'accelerate'} & set(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", watched],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("#!/bin/bash")
    assert done.stderr == "set()\n"


def test_a_script_of_somebody_else_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small_config(tmp_path, cluster={"num_nodes": 1, "gpus_per_node": 1})
    words = ["launch", "config.yaml", "--to", "torchrun", "--write", "it"]
    script = tmp_path / "it.sh"
    script.write_text("echo mine\n", encoding="utf-8")
    assert main(words) == 1 and "error[CF758]: it.sh" in capsys.readouterr().out
    assert script.read_text(encoding="utf-8") == "echo mine\n"
    script.rename(tmp_path / "other.sh")
    script.symlink_to("other.sh")
    assert main(words) == 1 and "CF758" in capsys.readouterr().out
    script.unlink()
    assert main(words) == main(words) == 0, "its own is replaced"
