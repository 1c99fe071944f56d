"""Ranks as launchers tell them. The environments were copied from real runs: DeepSpeed 0.19.8, torch 2.13,
accelerate 1.15, SLURM 22.05."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfoot.arithmetic.batch import Topology
from crossfoot.environment import slurm
from crossfoot.environment.ancestry import launcher_of, launchers_above
from crossfoot.environment.world import (
    Engine,
    World,
    engine_for,
    read_world,
    refuse_nested,
    rendezvous,
    unplanned_nodes,
)
from crossfoot.findings.finding import Refused

MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
ALONE_BY_ACCELERATE = {
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_USE_CPU": "False",
    "OMP_NUM_THREADS": "1",
}
BATCH_SHELL = {
    "SLURM_JOB_ID": "2", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "0",
    "SLURM_TASKS_PER_NODE": "2(x2)",
}  # fmt: skip


def by_deepspeed(
    rank: int, local_rank: int, local_size: int, node: int, nodes: int, world: int
) -> dict[str, str]:
    told = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": local_rank, "LOCAL_SIZE": local_size}
    return {name: str(n) for name, n in {**told, "CROSS_RANK": node, "CROSS_SIZE": nodes}.items()} | MEETING


def by_torchrun(
    rank: int, local_rank: int, local_size: int, node: int, nodes: int, world: int
) -> dict[str, str]:
    told = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": local_size}
    told |= {"GROUP_RANK": node, "GROUP_WORLD_SIZE": nodes, "ROLE_RANK": rank, "ROLE_WORLD_SIZE": world}
    return {name: str(n) for name, n in told.items()} | MEETING


def by_srun(
    rank: int, local_rank: int, node: int, tasks_per_node: str, nodes: int, world: int
) -> dict[str, str]:
    return {
        "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(local_rank), "SLURM_NODEID": str(node),
        "SLURM_STEP_TASKS_PER_NODE": tasks_per_node, "SLURM_TASKS_PER_NODE": tasks_per_node,
        "SLURM_STEP_NUM_NODES": str(nodes), "SLURM_STEP_NUM_TASKS": str(world), "SLURM_NTASKS": str(world),
        "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_ID": "5", "SLURM_STEP_ID": "0",
    }  # fmt: skip


def place(world: World) -> tuple[int, int, int, int, int, int]:
    return (
        world.rank,
        world.world_size,
        world.local_rank,
        world.local_world_size,
        world.node_rank,
        world.num_nodes,
    )


def refusal(environ: dict[str, str]) -> tuple[list[str], str]:
    with pytest.raises(Refused) as refused:
        read_world(environ)
    assert all(finding.helps for finding in refused.value.findings)
    return [finding.code for finding in refused.value.findings], str(refused.value)


@pytest.mark.parametrize(
    ("environ", "launcher", "expected", "per_node"),
    [
        (by_deepspeed(1, 1, 2, 0, 1, 2), "deepspeed", (1, 2, 1, 2, 0, 1), (2,)),
        (by_deepspeed(11, 3, 8, 1, 2, 16), "deepspeed", (11, 16, 3, 8, 1, 2), (8, 8)),
        (by_deepspeed(2, 0, 1, 1, 2, 3), "deepspeed", (2, 3, 0, 1, 1, 2), (2, 1)),
        (by_deepspeed(2, 0, 2, 1, 3, 6), "deepspeed", (2, 6, 0, 2, 1, 3), None),
        (by_torchrun(3, 1, 2, 1, 2, 4), "torchrun", (3, 4, 1, 2, 1, 2), (2, 2)),
        (by_torchrun(1, 1, 2, 0, 1, 2) | ALONE_BY_ACCELERATE, "accelerate", (1, 2, 1, 2, 0, 1), (2,)),
        (by_srun(2, 0, 1, "2,1", 2, 3), "srun", (2, 3, 0, 1, 1, 2), (2, 1)),
        (by_srun(1, 0, 1, "1(x2)", 2, 2), "srun", (1, 2, 0, 1, 1, 2), (1, 1)),
        (by_srun(4, 0, 2, "2(x2),1", 3, 5), "srun", (4, 5, 0, 1, 2, 3), (2, 2, 1)),
        (ALONE_BY_ACCELERATE, "accelerate", (0, 1, 0, 1, 0, 1), (1,)),
        ({}, "plain", (0, 1, 0, 1, 0, 1), (1,)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, "plain", (0, 1, 0, 1, 0, 1), (1,)),
        ({"RANK": "", "WORLD_SIZE": ""}, "plain", (0, 1, 0, 1, 0, 1), (1,)),
    ],
)
def test_every_launcher_is_read(
    environ: dict[str, str], launcher: str, expected: tuple[int, ...], per_node: tuple[int, ...] | None
) -> None:
    world = read_world(environ)
    assert (world.launcher, place(world), world.ranks_per_node) == (launcher, expected, per_node)


def test_launchers_under_srun_come_before_slurm() -> None:
    world = read_world(by_srun(1, 0, 1, "1(x2)", 2, 2) | by_torchrun(3, 1, 2, 1, 2, 4))
    assert world.launcher == "torchrun" and place(world) == (3, 4, 1, 2, 1, 2) and world.tasks_claimed == 4
    one = by_srun(0, 0, 0, "1", 1, 1) | {"SLURM_JOB_NUM_NODES": "2"}
    assert place(read_world(one | by_deepspeed(2, 0, 2, 1, 2, 4))) == (2, 4, 0, 2, 1, 2)


def test_ranks_exported_beside_srun_must_agree() -> None:
    step = by_srun(2, 0, 1, "2,1", 2, 3)
    assert read_world(step | {"RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "0"}).launcher == "srun"
    assert read_world(step | {"WORLD_SIZE": "3"}).world_size == 3
    codes, text = refusal(step | {"WORLD_SIZE": "16"})
    assert codes == ["CF413"] and "WORLD_SIZE says 16, but SLURM_STEP_NUM_TASKS says 3" in text


@pytest.mark.parametrize(
    ("environ", "codes", "words"),
    [
        ({"RANK": "1"}, ["CF411"], "RANK=1 without WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, ["CF411"], "WORLD_SIZE=2 without RANK"),
        ({"LOCAL_RANK": "0"}, ["CF411"], "LOCAL_RANK=0 without RANK and WORLD_SIZE"),
        ({"LOCAL_SIZE": "2"}, ["CF411"], "LOCAL_SIZE=2 without"),
        ({"RANK": "one", "WORLD_SIZE": "-2"}, ["CF410", "CF410"], "'one'"),
        (by_deepspeed(2, 0, 2, 0, 1, 2), ["CF412"], "rank 2 in a world of 2"),
        (by_deepspeed(1, 2, 2, 0, 1, 2), ["CF412"], "local rank 2 on a machine of 2"),
        (by_deepspeed(1, 1, 2, 2, 2, 4), ["CF412"], "machine 2 of 2"),
        (by_deepspeed(1, 1, 2, 0, 1, 4), ["CF412"], "2 of 4 ranks on one of 1"),
        (by_deepspeed(1, 1, 3, 0, 2, 2), ["CF412"], "3 of 2 ranks"),
        (by_deepspeed(0, 0, 2, 0, 3, 3), ["CF412"], "2 of 3 ranks on one of 3"),
        (by_deepspeed(0, 0, 2, 0, 1, 2) | {"LOCAL_WORLD_SIZE": "4"}, ["CF413"], "LOCAL_WORLD_SIZE says 4"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, ["CF416"], "rank 1 of 2"),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, ["CF416"], "spread"),
        ({"RANK": "1", "WORLD_SIZE": "1"}, ["CF412"], "its rank is not 0"),
        (BATCH_SHELL, ["CF414"], "SLURM counts 4 tasks"),
        ({"SLURM_JOB_ID": "3", "SLURM_NTASKS": "4"}, ["CF414"], "SLURM counts 4 tasks"),
        ({"SLURM_JOB_ID": "3", "SLURM_JOB_NUM_NODES": "2"}, ["CF414"], "SLURM counts 2 tasks"),
        (by_srun(0, 0, 0, "2", 1, 2) | {"SLURM_PTY_PORT": "45865"}, ["CF414"], "SLURM counts 2 tasks"),
        (by_srun(0, 0, 0, "2,2", 2, 3), ["CF412"], "2,2 tasks per node are not 3 tasks"),
        (by_srun(0, 0, 0, "two", 2, 3), ["CF410"], "'two'"),
        (
            by_srun(0, 0, 0, "1(x2)", 2, 2) | by_deepspeed(0, 0, 2, 0, 1, 2),
            ["CF415"],
            "2 copies of the deepspeed",
        ),
    ],
)
def test_contradictions_are_refused(environ: dict[str, str], codes: list[str], words: str) -> None:
    found, text = refusal(environ)
    assert found == codes and words in text


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        # torchrun inside deepspeed and the other way round: equal sizes agree, the marks of both are there
        (by_deepspeed(0, 0, 2, 0, 1, 2) | by_torchrun(0, 0, 2, 0, 1, 2), "LOCAL_SIZE=2 CROSS_RANK=0"),
        (by_torchrun(1, 1, 2, 0, 1, 2) | {"CROSS_SIZE": "1"}, "CROSS_SIZE=1"),
        (by_deepspeed(1, 1, 2, 0, 1, 2) | {"TORCHELASTIC_RUN_ID": "none"}, "TORCHELASTIC_RUN_ID=none"),
    ],
)
def test_marks_of_two_launchers_are_refused(environ: dict[str, str], words: str) -> None:
    with pytest.raises(Refused, match="CF444") as refused:
        read_world(environ)
    (finding,) = refused.value.findings
    assert any(words in note for note in finding.notes) and finding.helps


@pytest.mark.parametrize(
    ("words", "launcher"),
    [
        (["/venv/bin/python", "/venv/bin/torchrun", "--nproc-per-node", "2", "train.py"], "torchrun"),
        (["torchrun", "train.py"], "torchrun"),
        (["python3.11", "-u", "-m", "torch.distributed.run", "train.py"], "torchrun"),
        (["/usr/bin/python3", "-u", "-m", "deepspeed.launcher.launch", "--world_info=e30="], "deepspeed"),
        (["python", "/venv/bin/accelerate", "launch", "--cpu", "train.py"], "accelerate"),
        (["python", "-m", "accelerate.commands.launch", "train.py"], "accelerate"),
        (["python", "/venv/bin/deepspeed", "train.py"], None),  # starts deepspeed.launcher.launch
        (["python", "/venv/bin/accelerate", "config"], None),
        (["bash", "-c", "torchrun train.py"], None),
        (["vim", "torchrun"], None),
        (["python", "-m"], None),
        (["python", "-c", "torchrun"], None),
        ([], None),
    ],
)
def test_launchers_are_known_by_their_command_lines(words: list[str], launcher: str | None) -> None:
    assert launcher_of(words) == launcher


def test_the_parents_of_a_process_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = {
        9: (8, ["python", "train.py"]),
        8: (7, ["python", "/bin/accelerate", "launch"]),
        7: (6, ["sh", "-c", "x"]),
        6: (1, ["torchrun", "x"]),
        1: (0, ["init"]),
    }
    for pid, (parent, words) in chain.items():
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(
            f"{pid} (a ) name) S {parent} " + "1 " * 40, encoding="utf-8"
        )
        (tmp_path / str(pid) / "cmdline").write_text("\0".join(words) + "\0", encoding="utf-8")
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    above = launchers_above(9)
    assert above == ("torchrun", "accelerate")
    assert launchers_above(8) == ("torchrun",)
    assert launchers_above(77) == ()
    refuse_nested(above[:1], {})
    with pytest.raises(Refused, match="CF444: accelerate was started inside torchrun"):
        refuse_nested(above, by_torchrun(0, 0, 2, 0, 1, 2))


# hostfile slots 1 + 2: LOCAL_RANK = RANK % n, so the ranks of node 2 have LOCAL_RANK 1 and 0
ONE_AND_TWO = (by_deepspeed(0, 0, 1, 0, 2, 3), by_deepspeed(1, 1, 2, 1, 2, 3), by_deepspeed(2, 0, 2, 1, 2, 3))


@pytest.mark.parametrize(
    ("environ", "planned", "title"),
    [
        (by_srun(2, 0, 1, "2,1", 2, 3), Topology(3, 1), "1 node x 3 GPUs, but srun started 2 + 1 ranks on 2"),
        (by_srun(2, 0, 1, "2,1", 2, 3), Topology(1, 3), "3 nodes x 1 GPU, but srun started 2 + 1 ranks on 2"),
        (
            by_srun(3, 1, 1, "2(x2)", 2, 4),
            Topology((3, 1), 2),
            "2 nodes with 3 + 1 GPUs, but srun started 2 ranks on each of 2 nodes",
        ),
        (by_torchrun(1, 1, 3, 0, 1, 3), Topology((2, 1), 2), "torchrun started 3 ranks on 1 node"),
        *((environ, Topology(3, 1), "deepspeed started 1 + 2 ranks on 2 nodes") for environ in ONE_AND_TWO),
    ],
)
def test_ranks_on_other_nodes_than_planned(environ: dict[str, str], planned: Topology, title: str) -> None:
    (finding,) = unplanned_nodes(read_world(environ), planned)
    assert finding.code == "CF435" and title in finding.title
    assert len(finding.helps) == 2


@pytest.mark.parametrize(
    ("environ", "planned"),
    [
        ({}, Topology(1, 1)),
        ({}, Topology((2, 1), 2)),  # one process folds any plan
        (by_srun(1, 0, 1, "1(x2)", 2, 2), Topology(1, 2)),
        (by_torchrun(3, 1, 2, 1, 2, 4), Topology(2, 2)),
        (by_torchrun(3, 1, 2, 1, 2, 4), Topology(4, 1)),  # equal nodes may be others: the steps are the same
        (by_srun(2, 0, 1, "2,1", 2, 3), Topology((2, 1), 2)),
        (by_srun(2, 0, 1, "2,1", 2, 3), Topology((1, 2), 2)),  # which node is first is the launcher's choice
        (by_torchrun(0, 0, 2, 0, 3, 6), Topology(6, 1)),  # of three nodes one rank knows its own only
        *((environ, Topology((2, 1), 2)) for environ in ONE_AND_TWO),
    ],
)
def test_ranks_on_the_nodes_that_are_planned(environ: dict[str, str], planned: Topology) -> None:
    assert unplanned_nodes(read_world(environ), planned) == ()


@pytest.mark.lie("U9", answer="impossible")
def test_every_rank_of_unequal_nodes_has_a_place_of_its_own() -> None:
    """deepspeed gives the local ranks of a node in any order, and each once."""
    worlds = [read_world(environ) for environ in ONE_AND_TWO]
    assert {world.ranks_per_node for world in worlds} == {(1, 2)}
    assert {(world.node_rank, world.local_rank) for world in worlds} == {(0, 0), (1, 0), (1, 1)}


def test_a_launcher_typed_into_an_interactive_step_is_not_a_copy() -> None:
    shell = by_srun(0, 0, 0, "8", 1, 8) | {"SLURM_PTY_PORT": "45865"}
    assert read_world(shell | by_deepspeed(3, 3, 4, 0, 1, 4)).world_size == 4


@pytest.mark.parametrize(
    ("environ", "claimed"),
    [
        ({}, 1),
        (ALONE_BY_ACCELERATE, 1),
        (ALONE_BY_ACCELERATE | MEETING, 2),  # accelerate launch --cpu --num_processes 2 starts one process
        (ALONE_BY_ACCELERATE | BATCH_SHELL, 4),
        (ALONE_BY_ACCELERATE | by_srun(1, 0, 1, "1(x2)", 2, 2), 2),
        ({"OMPI_COMM_WORLD_SIZE": "3"}, 3),
        (by_srun(0, 0, 0, "1", 1, 1) | {"SLURM_JOB_NUM_NODES": "2"}, 1),
        (by_deepspeed(0, 0, 2, 0, 1, 2), 2),
    ],
)
def test_the_largest_claim_is_kept(environ: dict[str, str], claimed: int) -> None:
    assert read_world(environ).tasks_claimed == claimed


def test_rendezvous_under_srun_is_made_from_the_step() -> None:
    step = by_srun(2, 0, 1, "2,1", 2, 3)
    told = rendezvous(read_world(step), step)
    assert told == {
        "RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "MASTER_ADDR": "node1", "MASTER_PORT": "20040",
    }  # fmt: skip
    assert rendezvous(read_world(step), step | MEETING)["MASTER_PORT"] == "29500"
    for broken in ({"SLURM_STEP_NODELIST": "node[2-1]"}, {"SLURM_JOB_ID": "?"}, {"MASTER_PORT": "high"}):
        with pytest.raises(Refused):
            rendezvous(read_world(step), step | broken)


def test_rendezvous_elsewhere_is_the_launchers_own() -> None:
    told = by_deepspeed(1, 1, 2, 0, 1, 2)
    assert rendezvous(read_world(told), told)["MASTER_PORT"] == "29500"
    assert rendezvous(read_world({}), {})["MASTER_ADDR"] == "127.0.0.1"
    lost = {name: value for name, value in told.items() if name not in MEETING}
    with pytest.raises(Refused, match="CF417: MASTER_ADDR and MASTER_PORT are not known"):
        rendezvous(read_world(lost), lost)


@pytest.mark.parametrize(
    ("environ", "plan", "file", "engine"),
    [
        (by_deepspeed(0, 0, 2, 0, 1, 2), 2, True, "deepspeed"),
        (by_torchrun(0, 0, 2, 0, 1, 2), 2, True, "deepspeed"),
        (by_srun(2, 0, 1, "2,1", 2, 3), 3, True, "deepspeed"),
        (by_deepspeed(0, 0, 1, 0, 1, 1), 1, True, "deepspeed"),
        (by_torchrun(1, 1, 2, 0, 1, 2) | ALONE_BY_ACCELERATE, 2, True, "deepspeed"),
        ({}, 16, True, "accelerate"),
        ({}, 16, False, "accelerate"),
        (ALONE_BY_ACCELERATE, 16, True, "accelerate"),
        (by_deepspeed(0, 0, 1, 0, 1, 1), 16, False, "accelerate"),
    ],
)
def test_the_launcher_decides_on_the_engine(
    environ: dict[str, str], plan: int, file: bool, engine: Engine
) -> None:
    assert engine_for(read_world(environ), plan, file, environ) == engine


@pytest.mark.parametrize(
    ("environ", "plan", "file", "code", "words"),
    [
        (
            by_deepspeed(0, 0, 2, 0, 1, 2),
            16,
            True,
            "CF440",
            "deepspeed started 2 ranks, and the plan has 16",
        ),
        (by_srun(0, 0, 0, "1", 1, 1), 16, True, "CF440", "srun started 1"),
        (by_torchrun(0, 0, 2, 0, 1, 2), 2, False, "CF441", "torchrun started 2 processes"),
        (
            ALONE_BY_ACCELERATE | MEETING,
            2,
            True,
            "CF442",
            "by MASTER_ADDR MASTER_PORT there are 2 processes",
        ),
        (
            {"OMPI_COMM_WORLD_SIZE": "3"},
            2,
            True,
            "CF442",
            "by OMPI_COMM_WORLD_SIZE there are 3 processes",
        ),
        (ALONE_BY_ACCELERATE | BATCH_SHELL, 4, False, "CF442", "by SLURM_NTASKS there are 4 processes"),
        (
            ALONE_BY_ACCELERATE | {"ACCELERATE_USE_DEEPSPEED": "true"},
            2,
            True,
            "CF443",
            "ACCELERATE_USE_DEEPSPEED=true",
        ),
    ],
)
def test_a_world_that_is_not_the_plans_is_refused(
    environ: dict[str, str], plan: int, file: bool, code: str, words: str
) -> None:
    with pytest.raises(Refused, match=code) as refused:
        engine_for(read_world(environ), plan, file, environ)
    assert words in str(refused.value) and refused.value.findings[0].helps


@pytest.mark.parametrize(
    ("node_list", "expected"),
    [
        ("node[1-2,5]", ["node1", "node2", "node5"]),
        ("a1,b[01-03]", ["a1", "b01", "b02", "b03"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
        ("rack[1-2]n[1-2]", ["rack1n1", "rack1n2", "rack2n1", "rack2n2"]),
        ("gpu-7.cluster", ["gpu-7.cluster"]),
    ],
)
def test_node_lists_expand_as_scontrol_does(node_list: str, expected: list[str]) -> None:
    assert list(slurm.hosts(node_list)) == expected
    assert slurm.first_host(node_list) == expected[0]


@pytest.mark.parametrize("node_list", ["", "n[1-", "n1]", "n[2-1]", "n[]", "n[[1]]", "n[a-b]", "-n1", "n 1"])
def test_broken_node_lists_are_not_guessed(node_list: str) -> None:
    with pytest.raises(ValueError):
        slurm.first_host(node_list)


@given(st.lists(st.integers(1, 64), min_size=1, max_size=12))
def test_tasks_per_node_survive_slurms_shorthand(counts: list[int]) -> None:
    pieces, at = [], 0
    while at < len(counts):
        end = at
        while end < len(counts) and counts[end] == counts[at]:
            end += 1
        pieces.append(f"{counts[at]}(x{end - at})" if end - at > 1 else str(counts[at]))
        at = end
    assert slurm.tasks_per_node(",".join(pieces)) == tuple(counts)


def test_neighbouring_jobs_and_steps_meet_on_ports_of_their_own() -> None:
    ports = {
        slurm.port_of_job(job, step) for job in range(1_000, 1_500) for step in range(slurm.STEPS_PER_JOB)
    }
    assert len(ports) == 500 * slurm.STEPS_PER_JOB and min(ports) >= 20_000 and max(ports) < 32_000
