"""Launch files, read: directives as sbatch takes them, options as launchers do, commands as bash would."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from crossfoot.written.launch import options as tables
from crossfoot.written.launch.gpu_counts import gpu_count, gres_count
from crossfoot.written.launch.hostfile import resources
from crossfoot.written.launch.read import LARGEST_CHARACTERS, read_job, read_launch_file
from crossfoot.written.launch.statement import Host, LaunchFile, Layer, Option, Place
from launch_scripts import ACCELERATE_FILE, HOSTFILE, MATCHING


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def _read(text: str, name: str = "launch") -> LaunchFile:
        Path(name).write_text(text, newline="")
        file, findings = read_launch_file(name)
        assert findings == () and file is not None
        return file

    return _read


def said(file: LaunchFile) -> list[tuple[str, object, str]]:
    return [(each.about, each.value, str(each.place).partition(":")[2]) for each in file.statements]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (HOSTFILE, "hostfile"),
        ("node1\nnode2\n", "hostfile"),
        ("node1:8\nnode2:8\n", "hostfile"),
        ("localhost slots = 2\n", "hostfile"),
        (ACCELERATE_FILE, "accelerate"),
        ("{distributed_type: NO}\n", "shell"),
        ('{\n  "distributed_type": "NO"\n}\n', "accelerate"),
        ("#!/bin/bash\n#SBATCH -N 2\n", "sbatch"),
        ("#!/bin/bash\ncat > acc.yaml <<EOF\nnum_processes: 2\nEOF\nls\n", "shell"),
        ("#!/bin/bash\ncat > job.sbatch <<'EOF'\n#SBATCH -N 2\nEOF\nsbatch job.sbatch\n", "shell"),
        ("deepspeed train.py a.yaml\n", "shell"),
        ("", "shell"),
    ],
)
def test_the_content_says_the_kind(read, text: str, kind: str) -> None:
    assert read(text).kind == kind


def test_what_cannot_be_read_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("big").write_text("x" * (LARGEST_CHARACTERS + 1))
    Path("broken.yaml").write_text("num_processes: [\n")
    for name, code in (("absent", "CF450"), (".", "CF450"), ("big", "CF450"), ("broken.yaml", "CF451")):
        file, (finding,) = read_launch_file(name)
        assert (file, finding.code, finding.unreadable) == (None, code, True)


# What sbatch 22.05 makes of a line (`sbatch -v --test-only`): the options it lists, or that it stops.
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("#SBATCH --nodes 2 --gres gpu:8", {"--nodes": "2", "--gres": "gpu:8"}),
        (
            "#SBATCH -N2-4 -n16 --tasks-per-node=8",
            {"--nodes": "2-4", "--ntasks": "16", "--ntasks-per-node": "8"},
        ),
        ("#SBATCH --ntasks-per-nod=2", {"--ntasks-per-node": "2"}),
        ('#SBATCH --nodes="2"', {"--nodes": "2"}),
        ("#SBATCH --nodes=2 # two", {"--nodes": "2"}),
        ("#SBATCH --nodes=2#x", {"--nodes": "2"}),
        ("#SBATCH--exclusive", {"--exclusive": None}),
        (
            "#SBATCH -q normal -W -x node3 -e err -N4",
            {"--qos": "normal", "--exclude": "node3", "--nodes": "4"},
        ),
        ("#SBATCH -N 2 -N 3", {"--nodes": "3"}),
        ("   #SBATCH --nodes=2", "no_directive"),
        ("# SBATCH --nodes=2", "no_directive"),
        ("#sbatch --nodes=2", "no_directive"),
        ("\uff03SBATCH --nodes=2", "no_directive"),
        ("#SBATCH\u3000--nodes=2", "look_alike"),
        ("#SBATCH \u2013\u2013nodes=2", "look_alike"),
        ("# SBATCH lines follow", {}),
        ("##SBATCH --nodes=2", {}),
        ("#SBATCH --nodes=2;", "value"),
        ("#SBATCH --nodes=$N", "value"),
        ("#SBATCH --nodes=1,3", "value"),
        ("#SBATCH --ntasks-per-node=8x", "value"),
        ("#SBATCH --exclusive 2 --nodes=3", "invalid"),
        ("#SBATCH -N 2 foo", "invalid"),
        ("#SBATCHX --nodes=2", "invalid"),
        ("#SBATCH --gpu-per-node=8", "unknown"),
        ("#SBATCH --node=2", "unknown"),
    ],
)
def test_directives_are_read_as_sbatch_reads_them(read, line: str, expected: object) -> None:
    batch = (file := read(f"#!/bin/bash\n#SBATCH --job-name=x\n{line}\nsrun x\n")).batch
    assert batch is not None
    if expected == "unknown":
        assert len(batch.unknown) == 1
    elif isinstance(expected, str):
        assert [defect.kind for defect in file.defects] == [expected]
    else:
        assert isinstance(expected, dict)
        found = {name: option.value for name in expected if (option := batch.get(name))}
        assert (found, file.defects, batch.unknown) == (expected, (), ())
        assert expected or {option.name for option in batch.options} == {"--job-name"}


def test_directives_behind_the_first_command_do_not_count(read) -> None:
    file = read("#!/bin/bash\n\n# a comment\n#SBATCH -N 2\necho\n#SBATCH -n 4\n#SBATCH -t 10\n")
    assert [option.name for option in file.batch.options] == ["--nodes"]
    assert [(defect.kind, defect.near, defect.place.line) for defect in file.defects] == [
        ("late", "--ntasks", 6),
        ("late", "", 7),
    ]


@pytest.mark.parametrize(
    ("text", "per_node", "gres"),
    [
        ("8", 8, None),
        ("a100:8", 8, None),
        ("a100:4,v100:2", 6, None),
        ("gpu:8", 8, 8),
        ("gpu:a100:8", 8, 8),
        ("gpu:a100:4(S:0-1)", 4, 4),
        ("gpu", None, 1),
        ("gpu:a100", None, 1),
        ("gpu:2,nvme:1", 3, 2),
        ("nvme:1", 1, None),
        ("", None, None),
        ("gpu:" + "9" * 30, None, 1),
    ],
)
def test_numbers_of_gpus(text: str, per_node: int | None, gres: int | None) -> None:
    assert (gpu_count(text), gres_count(text)) == (per_node, gres)


def test_a_number_has_the_place_where_it_is_written(read) -> None:
    command = "$LAUNCH --nproc-per-node $N --master_addr ${A:-x} train.py a.yaml\n"
    file = read(f"N=8\nLAUNCH='torchrun --nnodes=2'\n{command}")
    assert said(file) == [("num_nodes", 2, "2:27"), ("gpus_per_node", 8, "1:3")]
    assert str(file.statements[1].used_at) == "launch:3:9"
    assert file.config is not None and (file.config.path, str(file.config.place)) == ("a.yaml", "launch:3:60")


def test_a_number_put_together_has_the_place_of_its_end(read) -> None:
    assert said(read("N=6\ndeepspeed --num_gpus=1$N train.py a.yaml\n")) == [("gpus_per_node", 16, "1:3")]
    assert said(read("N=1\ndeepspeed --num_gpus=${N}6 train.py a.yaml\n")) == [("gpus_per_node", 16, "2:26")]


def test_overrides_and_the_config_behind_the_script(read) -> None:
    command = "python -u train.py configs/a.yaml batch.micro_batch_size=4 --stop-after 3 train.epochs=2\n"
    file = read(f"cd sub\n{command}")
    assert file.config.path == "sub/configs/a.yaml"
    assert [word for word, _ in file.overrides] == ["batch.micro_batch_size=4", "train.epochs=2"]
    for start in ("crossfoot train", "python -m crossfoot train", "deepspeed --module crossfoot train"):
        assert read(f"{start} a.yaml\n").config.path == "a.yaml"
    there = read('cd "$(dirname "$0")/.."\npython train.py a.yaml\n').config
    assert there.is_elsewhere and there.is_same("configs/a.yaml"), "who knows where that is"
    assert not there.is_same("configs/b.yaml")
    assert read("python train.py /cluster/a.yaml\n").config.is_same("a.yaml"), "not on this machine"
    assert read("python train.py $1\n").config is None
    assert read("crossfoot check a.yaml\n").config is None


@pytest.mark.parametrize(
    "text",
    [
        "torchrun --nnodes $SLURM_NNODES --nproc-per-node $(nvidia-smi -L | wc -l) train.py a.yaml\n",
        "torchrun --nnodes ${SLURM_NNODES:-1} --nproc-per-node $((4 * N)) train.py a.yaml\n",
        "torchrun --nnodes 1:4 --nproc-per-node gpu train.py a.yaml\n",
        "torchrun $ARGS train.py a.yaml\n",
        "read N; torchrun --nnodes $N --nproc-per-node $N train.py a.yaml\n",
        "N=2; ((N = N * 2)); torchrun --nnodes $N --nproc-per-node $N train.py a.yaml\n",
        "if [ $A ]; then N=8; fi\ntorchrun --nnodes $N --nproc-per-node $N train.py a.yaml\n",
        "if [ $A ]; then torchrun --nnodes 2 train.py a.yaml; fi\n",
        "run() {\n  torchrun --nnodes 2 train.py a.yaml\n}\n",
        "[ $A ] && torchrun --nnodes 2 train.py a.yaml\n",
        "for n in a b; do ssh $n torchrun --nnodes 2 train.py a.yaml; done\n",
        "exit 0\ntorchrun --nnodes 2 train.py a.yaml\n",
        "echo torchrun --nnodes 2 train.py a.yaml\n",
        "cat > x.sh <<EOF\ntorchrun --nnodes 2 train.py a.yaml\nEOF\n",
        "# torchrun --nnodes 2 train.py a.yaml\n",
        "ssh node torchrun --nnodes 2 --nproc-per-node 2 train.py a.yaml\n",
    ],
)
def test_what_cannot_be_known_is_not_stated(read, text: str) -> None:
    assert said(read(text)) == []


def test_a_default_is_marked(read) -> None:
    file = read("deepspeed --num_gpus ${N:-8} train.py a.yaml\n")
    assert [(each.value, each.is_default) for each in file.statements] == [(8, True)]


def test_a_hostfile_is_followed_and_one_that_the_script_makes_is_not(read) -> None:
    Path("hosts").write_text(HOSTFILE)
    file = read("deepspeed --hostfile hosts train.py a.yaml\n")
    assert said(file) == [("num_nodes", 2, "3:1"), ("gpus_per_node", 8, "2:16")]
    assert said(read("deepspeed --hostfile hosts --num_nodes 1 --num_gpus 4 train.py a.yaml\n")) == [
        ("num_nodes", 1, "1:40"),
        ("gpus_per_node", 4, "1:53"),
    ]
    for maker in ("make_hosts > hosts", "make_hosts --to hosts", "make_hosts | tee hosts"):
        file = read(f"{maker}\ndeepspeed --hostfile hosts --num_gpus 8 train.py a.yaml\n")
        assert (said(file), file.named) == ([("gpus_per_node", 8, "2:39")], ())
    assert read("deepspeed --hostfile none train.py a.yaml\n").named[0].is_missing


def test_options_of_accelerate_come_before_its_file(read) -> None:
    Path("acc.yaml").write_text(ACCELERATE_FILE)
    start = "accelerate launch --config_file acc.yaml"
    assert said(read(f"{start} train.py a.yaml\n"))[:2] == [
        ("num_nodes", 2, "12:15"),
        ("world_size", 16, "13:16"),
    ]
    file = read(f"{start} --num-processes=4 train.py a.yaml\n")
    assert said(file)[:2] == [("world_size", 4, "1:58"), ("num_nodes", 2, "12:15")]
    assert not any(each.dry_run for each in file.statements)
    file = read(f"{start} --num_processes 1 --num_machines 1 train.py a.yaml\n")
    assert all(each.dry_run for each in file.statements)


def test_a_job_s_variables() -> None:
    assert read_job({"SLURM_JOB_NUM_NODES": "2"}) is None
    file = read_job({"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8"})
    assert [(each.about, each.value, str(each.place)) for each in file.statements] == [
        ("num_nodes", 2, "SLURM_JOB_NUM_NODES"),
        ("gpus_per_node", 8, "SLURM_GPUS_ON_NODE"),
    ]


@pytest.mark.parametrize("name", MATCHING)
def test_scripts_of_the_field_name_their_config(read, name: str) -> None:
    Path("hosts").write_text(HOSTFILE)
    assert read(MATCHING[name]).config.path == "config.yaml"


def _layer(**values: str) -> Layer:
    place = Place("x")
    return Layer("deepspeed", place, tuple(Option(f"--{k}", v, place, place, k) for k, v in values.items()))


TWO_HOSTS = {"a": 4, "b": 2}


@pytest.mark.parametrize(
    ("options", "slots"),
    [
        ({}, {"a": 4, "b": 2}),
        ({"exclude": "a:1"}, {"a": 3, "b": 2}),
        ({"exclude": "a:0,3@b"}, {"a": 2}),
        ({"exclude": "b:0,1"}, {"a": 4}),
        ({"exclude": "b:1,1"}, {"a": 4, "b": 1}),
        ({"exclude": "a:0@a:2"}, {"a": 2, "b": 2}),
        ({"include": "a:1"}, {"a": 1}),
        ({"include": "b@a:3,0"}, {"a": 2, "b": 2}),
        ({"num_nodes": "1"}, {"a": 4}),
        ({"num_gpus": "2"}, {"a": 2, "b": 2}),
    ],
)
def test_the_slots_that_deepspeed_takes(options: dict[str, str], slots: dict[str, int]) -> None:
    hosts = [Host(name, count, Place("x"), Place("x")) for name, count in TWO_HOSTS.items()]
    mine = resources(_layer(**options), hosts)
    assert (mine.slots, mine.problem) == (slots, "")
    filters = [f"--{name}" for name in options if name != "num_nodes"]
    assert [mine.by.name if mine.by else None] == (filters or [None])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"exclude": "a:4"}, "a has no slot 4, only 4 slots from 0"),
        ({"exclude": "c"}, "c is not a host of the hostfile"),
        ({"exclude": "a:x"}, "a:x is not NAME or NAME:SLOT,SLOT"),
        ({"exclude": "a", "include": "b"}, "--include and --exclude exclude each other"),
    ],
)
def test_the_slots_that_deepspeed_refuses(options: dict[str, str], problem: str) -> None:
    hosts = [Host(name, count, Place("x"), Place("x")) for name, count in TWO_HOSTS.items()]
    mine = resources(_layer(**options), hosts)
    assert (mine.slots, mine.problem) == ({}, problem)
    assert mine.at is not None and mine.at.name == "--exclude"


@pytest.mark.parametrize(("option", "slots"), [("exclude", {}), ("include", {"localhost": 2})])
def test_slots_of_this_machine_that_nobody_counted(option: str, slots: dict[str, int]) -> None:
    mine = resources(_layer(**{option: "localhost:0,1"}), [])
    assert (mine.slots, mine.problem) == (slots, "")


ASK_THE_LIBRARIES = """
import argparse, json, sys
import deepspeed.launcher.runner as runner
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

def table(parser):
    named = [action for action in parser._actions if action.option_strings]
    return {"valued": [a.option_strings for a in named if a.nargs != 0],
            "switches": [a.option_strings for a in named if a.nargs == 0], "prefixes": parser.allow_abbrev}

def keep(self, args=None, namespace=None):
    raise_it.append(self)
    raise SystemExit

raise_it = []
found = {"TORCHRUN": table(get_args_parser()), "ACCELERATE": table(launch_command_parser())}
argparse.ArgumentParser.parse_args = keep
try:
    runner.parse_args([])
except SystemExit:
    found["DEEPSPEED"] = table(raise_it[0])
answers = []
for hosts, include, exclude, nodes, gpus in json.load(sys.stdin):
    try:
        active = runner.parse_inclusion_exclusion(hosts, include, exclude)
        active = runner.apply_num_nodes_and_gpus(active, nodes, gpus)
        answers.append({name: len(slots) for name, slots in active.items()})
    except ValueError:
        answers.append(None)
print("ANSWER" + json.dumps([found, answers]))
"""


def _node(draw: random.Random) -> str:
    return f"n{draw.randint(0, 3)}" + draw.choice(["", ":0", ":0,1", ":2", ":1,1", ":x", ":"])


def _choices(count: int) -> list[tuple[dict[str, int], str, str, int, int]]:
    draw = random.Random(5)
    cases = []
    for _ in range(count):
        hosts = {f"n{i}": draw.randint(1, 3) for i in range(draw.randint(1, 3))}
        text = "@".join(_node(draw) for _ in range(draw.randint(1, 2)))
        filters = draw.choice([("", ""), (text, ""), ("", text)])
        numbers = (-1, -1) if any(filters) else (draw.choice([-1, 1, 2, 5]), draw.choice([-1, 1, 4]))
        cases.append((hosts, *filters, *numbers))
    return cases


@pytest.mark.slow
def test_options_and_hosts_are_those_of_the_installed_launchers() -> None:
    cases = _choices(400)
    ran = subprocess.run(
        [sys.executable, "-c", ASK_THE_LIBRARIES],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    parsers, answers = json.loads(ran.stdout.partition("ANSWER")[2])
    for name, parser in parsers.items():
        grammar = getattr(tables, name)
        assert grammar.prefixes == parser["prefixes"], name
        for kind in ("valued", "switches"):
            for words in parser[kind]:
                for word in words:
                    full = grammar.find(word) if word.startswith("--") else grammar.short.get(word[1:])
                    assert full is not None, (name, word)
                    assert grammar.takes_value(full) == (kind == "valued"), (name, word)
    for (hosts, include, exclude, nodes, gpus), answer in zip(cases, answers, strict=True):
        given = {"include": include, "exclude": exclude}
        given |= {"num_nodes": str(nodes)} if nodes > 0 else {}
        given |= {"num_gpus": str(gpus)} if gpus > 0 else {}
        listed = [Host(name, slots, Place("x"), Place("x")) for name, slots in hosts.items()]
        mine = resources(_layer(**{key: value for key, value in given.items() if value}), listed)
        assert (None if mine.problem else mine.slots) == answer, (hosts, given, mine.problem)
