"""Nodes with different numbers of GPUs, from the config to the page, the lock and the launch files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from crossfoot.arithmetic.batch import BatchImpossible, Topology, in_a_sum, solve_batch
from crossfoot.checks.registry import Facts
from crossfoot.checks.rules import run_static_rules
from crossfoot.cli import main
from crossfoot.doctor.asking import Node
from crossfoot.doctor.judging_gpus import gpu_findings
from crossfoot.doctor.needs import Needs, read_needs
from crossfoot.findings.finding import Finding, Refused
from crossfoot.index.build import ensure_index
from crossfoot.planning.lock import lock_sha256, make_lock
from crossfoot.planning.page import render_plan
from crossfoot.planning.plan import RunPlan, topology_of
from crossfoot.planning.prepare import plan_checked, read_and_check
from crossfoot.probing.compare import Comparison
from crossfoot.probing.verdict import ProofSetup, render, verdict_of
from crossfoot.written.deepspeed_file import DeepSpeedFile
from crossfoot.written.launch.read import read_job, read_launch_file
from crossfoot.written.launch.statement import LaunchFile
from crossfoot.written.resolved import dump_config
from crossfoot.written.run_file import load_run
from launch_scripts import CONFIG
from support.launching import small_config

LISTED = "cluster.gpus_per_node=[2, 1]"
SILENT = ("cluster.num_nodes=null", "cluster.gpus_per_node=null")
TWO_AND_ONE = "n1 slots=2\nn2 slots=1\n"
ZERO2 = DeepSpeedFile("zero2.json", {"zero_optimization": {"stage": 2}})
RUN = "train.py config.yaml"
DEEPSPEED = "deepspeed --hostfile hosts"
SRUN = f"srun python {RUN}"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config of 2 nodes x 8 GPUs, and a hostfile of 2 + 1 slots; the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(CONFIG)
    Path("hosts").write_text(TWO_AND_ONE)
    return tmp_path


def launch_file(text: str, name: str = "launch") -> LaunchFile:
    Path(name).write_text(text)
    file, findings = read_launch_file(name)
    assert file is not None and findings == ()
    return file


def found(text: str | LaunchFile, *words: str) -> list[Finding]:
    """What the rules find in a launch file; the config says 2 + 1 GPUs unless `words` say otherwise."""
    run = load_run("config.yaml", words or [LISTED])
    file = launch_file(text) if isinstance(text, str) else text
    findings = run_static_rules(Facts(run, ZERO2, launch=(file,)))
    return [each for each in findings if each.code.startswith("CF4") and each.code != "CF461"]


def batch(directives: str, command: str) -> str:
    return "\n".join(["#!/bin/bash", *(f"#SBATCH {each}" for each in directives.split(";")), command, ""])


# ---- numbers -----------------------------------------------------------------------------------------------


def test_the_numbers_of_unequal_nodes() -> None:
    topology = Topology((2, 1), 2)
    assert (topology.world_size, topology.dp_degree, topology.is_even) == (3, 3, False)
    plan = solve_batch(topology, micro_batch_size=4, global_batch_size=64)
    assert (plan.grad_accum_steps, plan.capacity_samples, plan.slots_per_step) == (6, 72, 18)
    assert plan.fold() == solve_batch(Topology(3, 1), micro_batch_size=4, global_batch_size=64).fold()
    with pytest.raises(BatchImpossible) as impossible:
        solve_batch(topology, micro_batch_size=2, grad_accum_steps=5, global_batch_size=7)
    assert impossible.value.notes[0] == "2 samples x 5 forwards x (2 + 1) GPUs = 30 samples"


def test_numbers_that_are_all_alike_are_one() -> None:
    assert Topology((8, 8), 2) == Topology(8, 2)
    assert hash(Topology((8, 8), 2)) == hash(Topology(8, 2))
    assert Topology((3,), 1) == Topology(3, 1)
    with pytest.raises(ValueError, match="2 numbers of GPUs for 3 nodes"):
        Topology((2, 1), 3)
    with pytest.raises(ValueError, match=r"2 nodes with 2 \+ 0 GPUs"):
        Topology((2, 0), 2)


@pytest.mark.parametrize(
    ("gpus", "words"),
    [(8, "8"), ((2, 1), "2 + 1"), ((8, 8, 4), "8 + 8 + 4"), ((8, 8, 8, 4, 1), "3 x 8 + 4 + 1")],
)
def test_a_sum_is_short(gpus: int | tuple[int, ...], words: str) -> None:
    assert in_a_sum(gpus) == words


def test_nodes_are_the_same_in_any_order() -> None:
    assert Topology((2, 1), 2).has_nodes_of(Topology((1, 2), 2))
    assert not Topology((2, 2, 1), 3).has_nodes_of(Topology((2, 1, 1), 3))
    assert not Topology((2, 1), 2).has_nodes_of(Topology(3, 1))


# ---- the config --------------------------------------------------------------------------------------------


def test_a_list_says_the_nodes_too() -> None:
    Path("config.yaml").write_text(CONFIG.replace("  num_nodes: 2\n", "").replace("8", "[2, 1, 1]"))
    run = load_run("config.yaml")
    assert (run.config.cluster.num_nodes, run.config.cluster.gpus_per_node) == (3, (2, 1, 1))
    sourced = topology_of(run)
    assert sourced.topology == Topology((2, 1, 1), 3)
    assert sourced.nodes_origin == sourced.gpus_origin == "config.yaml:6"
    Path("again.yaml").write_text(dump_config(run.config))
    assert load_run("again.yaml").config == run.config


def test_a_list_of_equal_numbers_is_the_one_number() -> None:
    assert load_run("config.yaml", ["cluster.gpus_per_node=[8, 8]"]).config == load_run("config.yaml").config
    words = ["cluster.num_nodes=null", "cluster.gpus_per_node=[8,8]"]
    assert load_run("config.yaml", words).config == load_run("config.yaml").config
    assert topology_of(load_run("config.yaml", words)).nodes_origin == "command line"


@pytest.mark.parametrize(
    ("value", "code", "title"),
    [
        ("[2, 1, 1]", "CF106", "gpus_per_node lists 3 nodes, but num_nodes says 2"),
        ("[8]", "CF106", "gpus_per_node lists 1 node, but num_nodes says 2"),
        ("[]", "CF007", "cluster.gpus_per_node must be a list with at least 1 entry, and is []"),
        ("[2, 0]", "CF007", "cluster.gpus_per_node[1] must be at least 1, and is 0"),
        ("[2, 1.0]", "CF007", "cluster.gpus_per_node[1] must be a whole number, and is 1.0"),
        ("[2, [1]]", "CF007", "cluster.gpus_per_node[1] must be a whole number, and is [1]"),
        ("{a: 2}", "CF007", "cluster.gpus_per_node must be a whole number"),
        ("0", "CF007", "cluster.gpus_per_node must be at least 1, and is 0"),
    ],
)
def test_a_list_that_is_none(value: str, code: str, title: str) -> None:
    with pytest.raises(Refused) as refused:
        load_run("config.yaml", [f"cluster.gpus_per_node={value}"])
    (finding,) = refused.value.findings
    assert finding.code == code and finding.title.startswith(title)


def test_the_page_and_the_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(small_config(tmp_path, cluster={"gpus_per_node": [2, 1]}))
    assert main(["plan", config]) == 0
    page = capsys.readouterr().out.splitlines()
    assert page[0].startswith("small   2 nodes with 2 + 1 GPUs, ZeRO-2")
    (row,) = [line for line in page if line.startswith("  x ranks")]
    written = Path(config).read_text(encoding="utf-8").splitlines()
    line = next(i for i, text in enumerate(written, 1) if "gpus_per_node" in text)
    assert row.split("   ")[-2:] == ["2 + 1 GPUs on 2 nodes", f"{config}:{line}"]
    assert not any("GPUs per node" in line for line in page)
    assert main(["plan", config, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert (numbers["gpus_per_node"], numbers["num_nodes"], numbers["world_size"]) == ([2, 1], 2, 3)
    needs = read_needs(config, [], None, {})
    assert (needs.num_nodes, needs.gpus_per_node) == (2, (2, 1))


def _lock(config: str, *words: str) -> tuple[RunPlan, dict[str, object]]:
    checked = read_and_check(config, words)
    checked.refuse()
    plan = plan_checked(checked, ensure_index(checked.run, checked.run.config.data.train, is_builder=True))
    return plan, make_lock(plan)


def test_the_lock(tmp_path: Path) -> None:
    config = str(small_config(tmp_path, cluster={"num_nodes": 2, "gpus_per_node": 2}))
    plan, lock = _lock(config, LISTED)
    assert json.loads(json.dumps(lock)) == lock
    assert lock["sha256"] == lock_sha256(lock)
    _, one_node = _lock(config, "cluster.num_nodes=1", "cluster.gpus_per_node=3")
    for sha in ("batches_sha256", "layout_sha256"):
        assert lock["plan"][sha] == one_node["plan"][sha]  # type: ignore[index]
    assert lock["sha256"] != one_node["sha256"]
    assert _lock(config, "cluster.gpus_per_node=[2, 2]")[1] == _lock(config)[1]
    assert "2 nodes with 2 + 1 GPUs" in render_plan(plan, str(lock["sha256"]))


def test_the_page_of_a_proof() -> None:
    setup = ProofSetup(
        name="demo", engine="accelerate", launcher="plain", device="cpu", zero_stage=2, dtype="float32",
        trains="LoRA r=4", model="builtin:tiny", micro_batch_size=2, grad_accum_steps=2, gpus_per_node=(2, 1),
        num_nodes=2, dp_degree=3, folded=True, capacity_samples=12, samples=9, trained_tokens=12,
        fewest_tokens=1, most_tokens=4, empty_slots=1, slot_sizes=((4, 2),), rate=1024.0,
    )  # fmt: skip
    page = render(setup, verdict_of(Comparison(1e-5), None, ())).splitlines()
    assert page[0].startswith("proof  demo   2 nodes with 2 + 1 GPUs, accelerate")
    assert any(
        line.startswith("  x ranks")
        and line.endswith("3   2 + 1 GPUs on 2 nodes; folded into one process: 6 forwards")
        for line in page
    )


# ---- launch files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        TWO_AND_ONE,
        f"{DEEPSPEED} {RUN}\n",
        f"{DEEPSPEED} --launcher pdsh {RUN}\n",
        f"deepspeed --no_ssh --node_rank 0 --master_addr n1 --hostfile hosts {RUN}\n",
        f"{DEEPSPEED} --include n1:0,1@n2:0 {RUN}\n",
        batch("-N 2;-n 3;--gpus-per-task=1", SRUN),
        batch("-N 2;-n 3;--gpus=3", SRUN),
        f"accelerate launch --num_processes 1 --num_machines 1 {RUN}\n",
    ],
)
def test_launch_files_of_unequal_nodes(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "code", "title", "help_"),
    [
        ("n1 slots=1\nn2 slots=2\n", "CF468", "the hostfile has 1 + 2 slots, but the plan has 2 + 1", "2, 1"),
        ("n1 slots=3\nn2 slots=1\n", "CF468", "the hostfile has 3 + 1 slots, but the plan has 2 + 1", "2, 1"),
        (
            "n1 slots=2\nn2 slots=2\n",
            "CF453",
            "the hostfile has 2 GPUs on each node, but the plan has 2 + 1",
            "write the slots of each host: 2, 1",
        ),
        (
            "n1 slots=2\nn2 slots=1\nn3 slots=1\n",
            "CF452",
            "the hostfile has 3 nodes, but the plan is for 2",
            "list 2 hosts in the hostfile",
        ),
        (
            f"{DEEPSPEED} --num_gpus 1 {RUN}\n",
            "CF453",
            "--num_gpus 1 starts 1 rank on each node",
            "leave out --num_gpus",
        ),
        (f"{DEEPSPEED} --include n1:0@n2:0 {RUN}\n", "CF453", "--include", "leave out --include"),
        (
            f"{DEEPSPEED} --launcher slurm {RUN}\n",
            "CF468",
            "--launcher slurm needs the same number of slots on every host",
            "leave out --launcher",
        ),
        (
            f"torchrun --nnodes 2 --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint n1:29500 {RUN}\n",
            "CF453",
            "--nproc-per-node 2 starts 2 ranks on each node, but the plan has 2 + 1",
            "give each node its own",
        ),
        (
            f"accelerate launch --multi_gpu --num_machines 2 --num_processes 3 --machine_rank 0 "
            f"--main_process_ip a {RUN}\n",
            "CF468",
            "accelerate starts the same number of ranks on every machine",
            "start it with a launcher that can",
        ),
        (
            batch("-N 2;--ntasks-per-node=2;--gpus-per-task=1", SRUN),
            "CF453",
            "--ntasks-per-node=2",
            "write --ntasks=3",
        ),
        (
            batch("-N 2;-n 4;--gpus-per-task=1", SRUN),
            "CF454",
            "-n says 4 ranks in all, but the plan has 3",
            "write -n 3",
        ),
        (
            batch("-N 2;--gpus-per-task=1", SRUN),
            "CF454",
            "srun starts 2 tasks, one on each node",
            "add #SBATCH --ntasks=3",
        ),
    ],
)
def test_launch_files_that_say_otherwise(text: str, code: str, title: str, help_: str) -> None:
    (finding,) = [each for each in found(text) if each.severity == "error"]
    assert (finding.code, finding.title[: len(title)]) == (code, title)
    assert any(each.startswith(help_) or each.endswith(help_) for each in finding.helps), finding.helps


def test_an_accelerate_file_for_unequal_nodes() -> None:
    text = "distributed_type: MULTI_GPU\nnum_machines: 2\nnum_processes: 4\nmain_process_ip: a\n"
    (finding,) = found(text, "cluster.gpus_per_node=[3, 1]")
    assert finding.code == "CF468"
    assert finding.notes == ("it divides: 4 on 2 machines are 2 on each",)
    (finding,) = found(text.replace("num_machines: 2", "num_machines: 1"), "cluster.gpus_per_node=[3, 1]")
    assert finding.code == "CF452"
    (finding,) = found(text, LISTED)
    assert (finding.code, finding.title) == ("CF454", "num_processes says 4 ranks in all, but the plan has 3")
    assert found(text.replace("2", "1").replace("4", "1"), LISTED) == []


def test_an_unequal_hostfile_for_equal_nodes() -> None:
    (finding,) = found("n1 slots=8\nn2 slots=4\n", "run.seed=1")
    assert (finding.code, finding.title) == (
        "CF468",
        "the hostfile has 8 + 4 slots, but the plan has 8 on each node",
    )
    assert finding.helps[-1] == "or plan for these hosts: cluster.gpus_per_node: [8, 4]"
    (finding,) = found("n1 slots=8\nn2 slots=4\n", "cluster.gpus_per_node=4")
    assert finding.helps[0].endswith("or start with deepspeed --num_gpus 4")
    assert found(f"{DEEPSPEED} --num_gpus 1 {RUN}\n", "cluster.gpus_per_node=1") == []
    first_only = "cluster={num_nodes: 1, gpus_per_node: 2}"
    assert found(f"{DEEPSPEED} --num_nodes 1 {RUN}\n", first_only) == []


def test_more_gpus_than_are_used_are_a_warning() -> None:
    text = batch("-N 2;-n 3;--gpus-per-node=2", SRUN)
    (finding,) = found(text)
    assert (finding.code, finding.severity) == ("CF453", "warning")
    assert finding.title == "--gpus-per-node=2 asks for 2 GPUs on each node, but the run uses 2 + 1"
    (finding,) = found(text.replace("node=2", "node=1"))
    assert (finding.code, finding.severity) == ("CF453", "error")


@pytest.mark.parametrize("gpus", ["1", "2"])
def test_a_job_counts_the_gpus_of_this_node(gpus: str) -> None:
    job = read_job({"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": gpus})
    assert job is not None and found(job) == []


def test_a_hostfile_tells_a_config_that_is_silent() -> None:
    run = load_run("config.yaml", SILENT)
    for text in (TWO_AND_ONE, f"{DEEPSPEED} {RUN} {' '.join(SILENT)}\n"):
        sourced = topology_of(run, None, [launch_file(text)])
        assert sourced.topology == Topology((2, 1), 2)
        assert sourced.gpus_origin.startswith("cluster.gpus_per_node   ")
        assert found(text, *SILENT) == []
    other = launch_file("n1 slots=4\nn2 slots=1\n", "other")
    (finding,) = run_static_rules(Facts(run, ZERO2, launch=(launch_file(TWO_AND_ONE), other)))[:1]
    assert finding.title == "the hostfile has 4 + 1 slots, but the hostfile says 2 + 1"
    three = load_run("config.yaml", ["cluster.gpus_per_node=null", "cluster.num_nodes=3"])
    assert topology_of(three, None, [other]).topology == Topology(4, 3), (
        "CF452 says that they are of other nodes"
    )


def test_doctor_holds_the_largest_share_against_the_largest_node() -> None:
    needs = Needs("config.yaml", num_nodes=2, gpus_per_node=(2, 1), origin="config.yaml:6", dtype="bfloat16")

    def nodes(*gpus: int) -> list[Node]:
        return [
            Node(
                f"n{number}",
                facts={
                    "torch": {"devices": [{"capability": "9.0", "name": "H100"}] * count, "cuda": "13.0",
                              "version": "2.13.0", "kernels": [], "rocm": None},
                    "gpus": {"devices": []},
                    "environ": {},
                },
            )
            for number, count in enumerate(gpus, 1)
        ]  # fmt: skip

    for enough in ((2, 1), (1, 2), (8, 1), (1,)):
        assert list(gpu_findings(nodes(*enough), needs)) == []
    (finding,) = gpu_findings(nodes(1, 1), needs)
    assert finding.code == "CF403" and finding.title.endswith("on n1, and the run asks for 2 there")
    slots = [replace(node, slots=slots) for node, slots in zip(nodes(1, 2), (2, 1), strict=True)]
    (finding,) = gpu_findings(slots, needs)
    assert finding.title.endswith("on n1, and the run asks for 2 there")
