"""The rules about launch files: one mistake is one finding, and what is right is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossfoot.checks.launch.planned import planned_gpus
from crossfoot.checks.launch.rules_settings import OWN_OPTIONS
from crossfoot.checks.registry import RULES, Facts
from crossfoot.cli import _parser
from crossfoot.planning.plan import topology_of
from crossfoot.written.launch.read import read_job, read_launch_file
from crossfoot.written.launch.stating import STARTING_VERBS
from crossfoot.written.run_file import load_run
from launch_findings import (
    ACCELERATE,
    FOUR_GPUS,
    MEET,
    NO_CLUSTER,
    ONE_NODE,
    RUN,
    SRUN,
    TORCHRUN,
    batch,
    found,
)
from launch_scripts import ACCELERATE_FILE, CONFIG, HOSTFILE, MATCHING

__all__ = ["found"]


@pytest.mark.parametrize("name", MATCHING)
def test_a_matching_script_gives_nothing(found, name: str) -> None:
    assert found(MATCHING[name]) == []


@pytest.mark.parametrize("text", [HOSTFILE, ACCELERATE_FILE])
def test_a_matching_file_gives_nothing(found, text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"torchrun --nnodes 1 --nproc_per_node 8 {RUN} batch.micro_batch_size=4\n", (ONE_NODE,)),
        (f"torchrun --standalone --nproc-per-node=gpu {RUN}\n", (ONE_NODE,)),
        (f"deepspeed {RUN}\n", (ONE_NODE,)),
        (f"deepspeed --num_gpu 8 {RUN}\n", (ONE_NODE,)),
        (f"deepspeed --include localhost:0,1,2,3,4,5,6,7 {RUN}\n", (ONE_NODE,)),
        (f"CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7 deepspeed {RUN}\n", (ONE_NODE,)),
        (f"CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7 torchrun --nproc-per-node 8 {RUN}\n", (ONE_NODE,)),
        (f"deepspeed --hostfile hosts --num_gpus 4 {RUN}\n", (FOUR_GPUS,)),
        (f"deepspeed --hostfile hosts3 --num_nodes 2 {RUN}\n", ()),
        (f"deepspeed --hostfile hosts3 --exclude n2 {RUN}\n", ()),
        (batch("-N 2", f"srun -N 1 -n 1 deepspeed --hostfile hosts {RUN}"), ()),
        (batch("-N 2;--ntasks-per-node=8;--gpus=16", SRUN), ()),
        (batch("-N 2;-n 16;--gres=gpu:8", SRUN), ()),
        (batch("-n 16;-G 16", SRUN), ()),
        (batch("-N 2;--ntasks-per-node=8", f"srun --ntasks-per-node=8 python {RUN}"), ()),
        (
            batch(
                "-N 2;--ntasks=16",
                f"srun --ntasks-per-node=1 torchrun --nnodes 2 --nproc-per-node 8 {MEET} {RUN}",
            ),
            (),
        ),
        (f"torchrun --nproc-per-node 1 {RUN}\n", ("deepspeed=null", ONE_NODE, "cluster.gpus_per_node=1")),
    ],
)
def test_what_is_nobodys_mistake(found, text: str, words: tuple[str, ...]) -> None:
    overrides = tuple(word for word in words)
    codes = [finding.code for finding in found(text, words=overrides)]
    assert [code for code in codes if code != "CF461"] == []


@pytest.mark.parametrize(
    ("code", "text"),
    [
        # nodes
        ("CF452", "n1 slots=8\nn2 slots=8\nn3 slots=8\n"),
        ("CF452", batch("-N 4;-n 32;--gres=gpu:8", SRUN)),
        ("CF452", f"deepspeed --hostfile hosts --num_nodes 1 {RUN}\n"),
        ("CF452", f"deepspeed --hostfile hosts --exclude worker-2 {RUN}\n"),
        ("CF452", f"torchrun --nproc-per-node 8 {RUN}\n"),
        ("CF452", batch("-N 2;--gres=gpu:8", f"torchrun --nproc-per-node 8 {RUN}")),
        ("CF452", f"accelerate launch --multi_gpu --num_processes 16 {RUN}\n"),
        ("CF474", batch("-N 1-2;--ntasks-per-node=8", SRUN)),
        # GPUs on each
        ("CF453", batch("-N 2;--ntasks-per-node=8;--gres=gpu:4", SRUN)),
        ("CF453", batch("-N 2;--ntasks-per-node=4;--gres=gpu:4", SRUN)),
        ("CF453", batch("-N 2;--ntasks-per-node=8;--gpus=8", SRUN)),
        ("CF453", batch("-N 2;--ntasks-per-node=4;--gpus-per-task=1", SRUN)),
        ("CF453", f"torchrun --nnodes 2 {MEET} --nproc_per_node 16 {RUN}\n"),
        ("CF453", f"torchrun --nnodes 2 {MEET} {RUN}\n"),
        ("CF453", f"deepspeed --hostfile hosts --include worker-1:0,1@worker-2:0,1 {RUN}\n"),
        # ranks in all
        ("CF454", batch("-N 2;-n 8;--gres=gpu:8", SRUN)),
        ("CF454", batch("-N 2;--gres=gpu:8", f"srun -n 8 python {RUN}")),
        ("CF454", batch("-N 2;--gres=gpu:8", SRUN)),
        ("CF454", batch("-n 16;-G 8", SRUN)),
        ("CF454", f"{ACCELERATE} --num_processes 8 --main_process_ip a {RUN}\n"),
        # files and hosts
        ("CF455", f"deepspeed --hostfile absent {RUN}\n"),
        ("CF455", f"accelerate launch --config_file absent.yaml {RUN}\n"),
        ("CF468", f"deepspeed --hostfile hosts --include worker-1:0,1@worker-2 {RUN}\n"),
        ("CF469", "worker-1 slots=8\nworker-2 slots = 8\n"),
        ("CF469", "# nothing\nworker-1 slots=8\nworker-1 slots=8\n"),
        ("CF470", f"deepspeed --hostfile hosts --include worker-9 {RUN}\n"),
        ("CF470", f"deepspeed --hostfile hosts --include worker-1 --num_gpus 8 {RUN}\n"),
        ("CF470", batch("-N 2", f"deepspeed --hostfile hosts --num_nodes 4 {RUN}")),
        # one world
        ("CF462", batch("-N 2;--ntasks-per-node=8", f"srun deepspeed --hostfile hosts {RUN}")),
        ("CF462", batch("-N 2;--ntasks-per-node=1", f"srun deepspeed --hostfile hosts {RUN}")),
        ("CF462", batch("-N 2;--ntasks-per-node=1", f"srun deepspeed {RUN}")),
        ("CF462", batch("-N 2;--ntasks-per-node=1", f"srun torchrun --standalone --nproc-per-node 8 {RUN}")),
        ("CF462", batch("-N 2;--ntasks-per-node=1", f"srun torchrun --nproc-per-node 8 {RUN}")),
        ("CF462", batch("-N 2;--ntasks-per-node=1", f"srun accelerate launch --multi_gpu {RUN}")),
        ("CF462", f"{TORCHRUN} {MEET} deepspeed {RUN}\n"),
        ("CF463", f"{TORCHRUN} {RUN}\n"),
        (
            "CF463",
            batch(
                "-N 2;--ntasks-per-node=1",
                f"srun {TORCHRUN} --rdzv-backend c10d --rdzv-endpoint localhost:1 {RUN}",
            ),
        ),
        ("CF463", batch("-N 2;--ntasks-per-node=1", f"srun {TORCHRUN} --master_addr node1 {RUN}")),
        ("CF463", f"{ACCELERATE} --num_processes 16 {RUN}\n"),
        ("CF463", f"deepspeed --no_ssh --hostfile hosts {RUN}\n"),
        ("CF464", f"deepspeed {RUN}\n"),
        ("CF464", f"deepspeed --num_nodes 2 --num_gpus 8 {RUN}\n"),
        ("CF464", batch("-N 2;--gpus-per-node=8", f"deepspeed --num_gpus 8 {RUN}")),
        ("CF478", batch("-N 2", f"{TORCHRUN} {MEET} {RUN}")),
        ("CF478", batch("-N 2", f"{ACCELERATE} --num_processes 16 --main_process_ip a {RUN}")),
        ("CF475", batch("-N 2", f"python {RUN}")),
        ("CF475", batch("--ntasks=8", f"accelerate launch --num_processes 1 {RUN}")),
        ("CF475", batch("--gres=gpu:8", f"python {RUN}")),
        # accelerate
        ("CF456", f"accelerate launch --num_processes 1 --gradient_accumulation_steps 4 {RUN}\n"),
        ("CF457", f"accelerate launch --num_processes 1 --gradient_clipping 0.3 {RUN}\n"),
        ("CF458", f"accelerate launch --num_processes 1 --mixed_precision fp16 {RUN}\n"),
        ("CF459", f"accelerate launch --num_processes 1 --zero_stage 3 {RUN}\n"),
        ("CF460", f"accelerate launch --num_processes 1 --deepspeed_config_file other.json {RUN}\n"),
        ("CF465", f"accelerate launch --num_processes 1 --use_deepspeed {RUN}\n"),
        ("CF465", f"export ACCELERATE_USE_DEEPSPEED=true\naccelerate launch --num_processes 1 {RUN}\n"),
        ("CF466", f"ACCELERATE_USE_CPU=1 accelerate launch --num_processes 1 {RUN}\n"),
        # words
        ("CF461", "deepspeed --hostfile hosts train.py other.yaml\n"),
        (
            "CF472",
            f"#!/bin/bash\n#SBATCH -N 2 -G 16\nset -e\n#SBATCH -t 10\nsrun -n 16 python {RUN}\n",
        ),
        ("CF473", f"accelerate launch --num_process 1 {RUN}\n"),
        ("CF473", f"torchrun --nproc_per_nodes=8 {RUN}\n"),
        ("CF473", f"deepspeed --hostfiles hosts {RUN}\n"),
        ("CF473", batch("-N 2;--ntask-per-node=8", f"srun --ntasks-per-node=8 python {RUN}")),
        ("CF473", "distributed_type: MULTI_GPU\nnum_machines: 2\nnum_procesess: 16\nmain_process_ip: a\n"),
        ("CF473", "distributed_type: MULTI_GPU\nnum_machines: 2\nnum_processes: 16\nnum_processes: 8\n"),
        ("CF476", f"#!/bin/bash\r\n#SBATCH -N 2 -G 16\r\n#SBATCH --ntasks-per-node=8\r\n{SRUN}\r\n"),
        ("CF476", f"#SBATCH -N 2 -G 16\n#SBATCH --ntasks-per-node=8\n{SRUN}\n"),
        ("CF476", batch("-N 2;--ntasks-per-node=$N", f"srun --ntasks-per-node=8 python {RUN}")),
        ("CF477", "import os\n"),
        ("CF479", f"deepspeed --hostfile hosts {RUN} --learning_rate 1e-4\n"),
    ],
)
def test_one_mistake_is_one_finding(found, code: str, text: str) -> None:
    findings = found(text)
    assert [finding.code for finding in findings] == [code]
    assert findings[0].place is not None and findings[0].helps


def test_two_files_that_disagree_with_the_config_are_one_finding(found) -> None:
    (finding,) = found(batch("-N 3;--ntasks-per-node=8", SRUN), Path("hosts3").read_text())
    assert finding.code == "CF452"
    assert [(str(place), text) for place, text in finding.others] == [
        ("launch1:3:1", "3 here too"),
        ("config.yaml:6:14", "2 nodes"),
    ]
    assert finding.helps[1] == "or set cluster.num_nodes to 3: 192 samples per optimizer step"


def test_two_files_that_disagree_without_a_cluster(found) -> None:
    Path("config.yaml").write_text(CONFIG.replace("num_nodes: 2", "").replace("gpus_per_node: 8", ""))
    (finding,) = found(batch("-N 4;--ntasks-per-node=8", SRUN), HOSTFILE)
    assert finding.title == "the hostfile has 2 nodes, but -N says 4"
    text = f"srun --ntasks-per-node=1 torchrun --nnodes 2 --nproc-per-node 4 {MEET} {RUN}"
    (finding,) = found(batch("-N 2;--gres=gpu:8", text))
    assert finding.title == "--nproc-per-node 4 starts 4 ranks on each node, but --gres says 8"


def test_totals_are_told_from_numbers_per_node(found) -> None:
    (finding,) = found(f"{ACCELERATE} --num_processes 8 --main_process_ip a {RUN}\n")
    assert finding.notes == ("--num_processes counts all nodes together; 8 is the number on one of 2",)
    (finding,) = found(f"torchrun --nnodes 2 {MEET} --nproc_per_node 16 {RUN}\n")
    assert finding.notes == ("--nproc-per-node counts one node; 16 is the total over all 2",)
    (finding,) = found(batch("-N 2;--ntasks-per-node=8;--gpus=8", SRUN))
    assert finding.title == "--gpus=8 is a total, 4 on each of 2 nodes, but the plan has 8"
    assert finding.helps[0] == "write --gpus-per-node=8, which counts one node"


def test_gpus_that_stand_idle_are_a_warning_when_the_launcher_says_so(found) -> None:
    words = (ONE_NODE, FOUR_GPUS)
    allocated = "--gres=gpu:8"
    for command, severity in ((f"deepspeed --num_gpus 4 {RUN}", "warning"), (f"deepspeed {RUN}", "error")):
        findings = [each for each in found(batch(allocated, command), words=words) if each.code != "CF461"]
        assert [(each.code, each.severity) for each in findings] == [("CF453", severity)]


def test_what_an_exported_variable_may_change_is_a_warning(found) -> None:
    (finding,) = found(f"torchrun --nnodes ${{NNODES:-1}} --nproc-per-node 8 {MEET} {RUN}\n")
    assert (finding.code, finding.severity) == ("CF452", "warning")
    assert finding.notes == ("it is a default: an exported variable would overrule it",)


def test_a_job_of_another_size_is_a_warning(found) -> None:
    job = read_job({"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "3", "SLURM_GPUS_PER_NODE": "a100:8"})
    (finding,) = found(job)
    assert (finding.code, finding.severity) == ("CF452", "warning")
    assert finding.title == "this job has 3 nodes, but the plan is for 2"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("torchrun --nproc-per-node 8", "CF467"),
        ("deepspeed --num_gpus 8", "CF467"),
        ("accelerate launch --multi_gpu --num_processes 8", "CF467"),
        ("accelerate launch --num_processes 1", None),
        ("python", None),
    ],
)
def test_several_ranks_need_a_deepspeed_file(found, command: str, code: str | None) -> None:
    findings = found(f"{command} {RUN} deepspeed=null {ONE_NODE}\n", words=("deepspeed=null", ONE_NODE))
    assert [finding.code for finding in findings] == ([code] if code else [])


def test_words_that_only_check_was_given(found) -> None:
    command = f"deepspeed --hostfile hosts {RUN}"
    (finding,) = found(f"{command}\n", words=("batch.micro_batch_size=2",))
    assert finding.severity == "warning"
    assert finding.title == "checked with batch.micro_batch_size=2, but the command starts without it"
    (finding,) = found(f"{command} batch.micro_batch_size=8\n", words=("batch.micro_batch_size=2",))
    assert finding.title.endswith("but the command says batch.micro_batch_size=8")
    assert found(f"{command} batch.micro_batch_size=2\n", words=("batch.micro_batch_size=2",)) == []
    assert found(f'{command} "$@"\n', words=("batch.micro_batch_size=2",)) == []


def test_no_option_of_ours_is_taken_for_a_foreign_one() -> None:
    (verbs,) = [action for action in _parser()[0]._actions if isinstance(action.choices, dict)]
    ours = {word for verb in STARTING_VERBS for word in verbs.choices[verb]._option_string_actions}
    assert {word for word in ours if word.startswith("--")} == OWN_OPTIONS


def test_one_config_by_two_paths(found) -> None:
    assert found("deepspeed --hostfile hosts train.py ./sub/../config.yaml\n") == []
    assert found(f"deepspeed --hostfile hosts train.py {Path('config.yaml').absolute()}\n") == []


def test_one_of_several_runs_of_a_script(found) -> None:
    start = "deepspeed --hostfile hosts train.py"
    assert found(f"{start} first.yaml\n{start} config.yaml\n") == []
    (finding,) = found(f"{start} first.yaml\n{start} second.yaml\n")
    assert finding.code == "CF461"


def test_accelerate_that_starts_one_process_only(found) -> None:
    Path("no.yaml").write_text("distributed_type: 'NO'\nnum_machines: 1\nnum_processes: 1\n")
    for options in ("--cpu --num_processes 8", "--config_file no.yaml --num_processes 8"):
        findings = found(f"accelerate launch {options} {RUN}\n", words=(ONE_NODE,))
        assert "CF466" in [finding.code for finding in findings]
    findings = found(
        f"accelerate launch --config_file no.yaml --multi_gpu --num_processes 8 {RUN} {ONE_NODE}\n",
        words=(ONE_NODE,),
    )
    assert findings == []


def test_processes_that_do_not_divide(found) -> None:
    words = ("cluster.num_nodes=3", "cluster.gpus_per_node=5")
    text = f"{ACCELERATE} --num_processes 15 --main_process_ip a"
    findings = found(f"{text} {RUN} {' '.join(words)}\n", words=words)
    assert [finding.title for finding in findings if finding.code == "CF454"] == [
        "15 processes do not divide over 2 machines"
    ]


def test_devices_that_deepspeed_ignores(found) -> None:
    words = (ONE_NODE, FOUR_GPUS)
    text = f"CUDA_VISIBLE_DEVICES=4,5,6,7 deepspeed --num_gpus 4 {RUN} {' '.join(words)}\n"
    (finding,) = found(text, words=words)
    assert (finding.code, finding.severity) == ("CF471", "warning")
    assert found(text.replace("4,5,6,7", "0,1,2,3"), words=words) == []


# ---- nodes and GPUs that the config leaves out -------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "nodes", "gpus", "origins"),
    [
        (batch("-N 2;--gpus-per-node=8;--ntasks-per-node=8", SRUN), 2, 8, ("launch:2", "launch:3")),
        (
            f"N=4\ndeepspeed --num_gpus $N {RUN}\n",
            1,
            4,
            ("assumed: cluster.num_nodes is not given", "launch:1"),
        ),
        (HOSTFILE, 2, 8, ("launch:3", "launch:2")),
        (ACCELERATE_FILE, 2, 8, ("launch:12", "launch:13")),
        (batch("-N 2;-n 16", SRUN), 2, 8, ("launch:2", "launch:3")),
        (
            f"python {RUN}\n",
            1,
            1,
            ("assumed: cluster.num_nodes is not given", "assumed: cluster.gpus_per_node is not given"),
        ),
    ],
)
def test_the_topology_comes_from_the_launch_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    nodes: int,
    gpus: int,
    origins: tuple[str, str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(CONFIG)
    Path("launch").write_text(text)
    file, _ = read_launch_file("launch")
    run = load_run("config.yaml", NO_CLUSTER)
    sourced = topology_of(run, None, (file,))
    assert (sourced.topology.num_nodes, sourced.topology.gpus_per_node) == (nodes, gpus)
    for origin, expected, key in zip(
        (sourced.nodes_origin, sourced.gpus_origin), origins, ("num_nodes", "gpus_per_node"), strict=True
    ):
        assert origin == (expected if expected.startswith("assumed") else f"cluster.{key}   {expected}")
    with_cluster = topology_of(load_run("config.yaml"), None, (file,))
    assert with_cluster.nodes_origin == "config.yaml:6", "the config owns them"
    planned = planned_gpus(Facts(run, launch=(file,)))
    assert planned is None if expected.startswith("assumed") else planned.value == gpus


def test_every_rule_of_this_family_was_made_here() -> None:
    covered = {f"CF{number}" for number in range(452, 480)}
    assert covered <= set(RULES)
