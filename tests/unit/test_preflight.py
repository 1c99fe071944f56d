"""The preflight check, with plain facts: what each disagreement between ranks is called, and that equal
ranks have none. No torch, no process.
"""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from crossfoot.documents import parse, value_of
from crossfoot.environment.master_address import (
    is_own_address,
    look_at_meeting_point,
    wait_for_listener,
    why_not_free,
)
from crossfoot.environment.world import read_world, unplanned_nodes
from crossfoot.findings.finding import Finding, Place, Refused
from crossfoot.planning.prepare import read_and_check
from crossfoot.rendezvous.devices import Device, choose_index, identity_of
from crossfoot.rendezvous.preflight import disagreements, ranks_per_node
from crossfoot.rendezvous.rank_info import RankInfo, code_facts, flat, model_facts, rank_info_of
from crossfoot.runs.resume import NEW_RUN
from crossfoot.training import acquire, rank_job
from support.launching import free_port, small_config

PARTS = {
    "config": {"run.seed": "7", "batch.global_batch_size": "64"},
    "deepspeed": {"zero_optimization.stage": "2"},
    "data": {"data.jsonl": "10 bytes, sha256 aaaa"},
    "model": {"config.json": "sha256 1111"},
    "code": {"cli.py": "c0de"},
    "libraries": {"torch": "2.13.0", "deepspeed": "0.19.8"},
    "beside": {"numpy": "2.4.0", "python": "3.11"},
}
ORIGINS = {"code": "/shared/crossfoot"}


def gpu(number: int, visible: int = 2, index: int | None = None) -> Device:
    """A GPU that a rank sees among `visible`."""
    return Device("cuda", visible, number % 2 if index is None else index, f"uuid GPU-{number}", "H100")


def four(*devices: Device) -> list[RankInfo]:
    """Two nodes of two ranks, all alike; on CPUs unless devices are given."""
    return [
        RankInfo(
            rank=rank,
            world_size=4,
            local_rank=rank % 2,
            local_world_size=2,
            node_rank=rank // 2,
            num_nodes=2,
            launcher="deepspeed",
            host=f"node{rank // 2 + 1}",
            pid=100 + rank,
            device=devices[rank] if devices else Device("cpu"),
            parts=PARTS,
            origins=ORIGINS,
        )
        for rank in range(4)
    ]


def changed(rank_infos: list[RankInfo], ranks: tuple[int, ...], part: str, **facts: str) -> list[RankInfo]:
    """The same accounts, with other facts in a part of some ranks."""
    return [
        replace(rank_info, parts={**rank_info.parts, part: {**rank_info.parts[part], **facts}})
        if rank_info.rank in ranks
        else rank_info
        for rank_info in rank_infos
    ]


def only(rank_infos: list[RankInfo]) -> Finding:
    (finding,) = disagreements(rank_infos)
    assert finding.helps
    return finding


def test_equal_ranks_have_no_disagreement() -> None:
    assert disagreements(four()) == ()
    assert disagreements(four(*map(gpu, range(4)))) == ()
    assert disagreements(four()[:1]) != (), "a world of four in which one rank came"


@pytest.mark.parametrize(
    ("part", "fact", "value", "code", "title"),
    [
        ("config", "run.seed", "8", "CF424", "different config on node2"),
        ("deepspeed", "zero_optimization.stage", "3", "CF425", "different DeepSpeed file on node2"),
        ("data", "data.jsonl", "10 bytes, sha256 bbbb", "CF426", "different data on node2: same names"),
        ("model", "config.json", "sha256 2222", "CF429", "different model or tokenizer on node2"),
        ("code", "cli.py", "beef", "CF427", "different code on node2"),
        ("libraries", "torch", "2.12.0", "CF428", "different torch on node2"),
        ("beside", "numpy", "2.3.0", "CF445", "different versions of libraries on node2"),
    ],
)
def test_each_part_that_differs_on_a_node_is_named_with_both_values(
    part: str, fact: str, value: str, code: str, title: str
) -> None:
    finding = only(changed(four(), (2, 3), part, **{fact: value}))
    assert finding.code == code and finding.title.startswith(title)
    assert finding.notes[0] == f"{fact}: {PARTS[part][fact]} on node1, {value} on node2"
    assert finding.severity == ("warning" if code == "CF445" else "error")


def test_one_rank_of_a_node_is_named_by_its_number() -> None:
    finding = only(changed(four(), (3,), "config", **{"run.seed": "8"}))
    assert finding.title == "different config on rank 3 on node2"
    assert finding.notes == ("run.seed: 7 on ranks 0, 1, 2 on node1 and node2, 8 on rank 3 on node2",)


def test_several_parts_are_said_at_once_errors_first() -> None:
    rank_infos = changed(four(), (2, 3), "beside", numpy="1")
    rank_infos = changed(rank_infos, (2, 3), "libraries", torch="2.12.0", deepspeed="0.18.0")
    rank_infos = changed(rank_infos, (1,), "data", **{"data.jsonl": "9 bytes, sha256 cccc"})
    found = disagreements(rank_infos)
    assert [finding.code for finding in found] == ["CF426", "CF428", "CF445"]
    assert found[1].title == "different deepspeed and torch on node2"


def test_a_file_that_one_node_lacks_and_long_lists() -> None:
    rank_infos = four()
    parts = {**PARTS, "code": {f"m{number}.py": "1" for number in range(9)}}
    rank_infos[3] = replace(rank_infos[3], parts=parts, origins={"code": "/home/me/crossfoot"})
    finding = only(rank_infos)
    assert "cli.py: c0de on" in finding.notes[0] and "absent on rank 3" in finding.notes[0]
    assert "and 5 more" in finding.notes
    assert any(note.endswith(": /home/me/crossfoot") for note in finding.notes)


def test_a_rank_that_was_told_another_world() -> None:
    rank_infos = four()
    rank_infos[3] = replace(rank_infos[3], launcher="torchrun", world_size=2, num_nodes=1)
    finding = only(rank_infos)
    assert finding.code == "CF439"
    assert "ranks 0, 1, 2 on node1 and node2: deepspeed says 4 ranks on 2 nodes" in finding.notes
    assert "rank 3 on node2: torchrun says 2 ranks on 1 node" in finding.notes


def test_ranks_per_node_that_are_not_what_came() -> None:
    rank_infos = [replace(rank_info, node_rank=min(rank_info.rank, 1)) for rank_info in four()]
    found = disagreements(
        [replace(rank_info, host=f"node{rank_info.node_rank + 1}") for rank_info in rank_infos]
    )
    assert [finding.code for finding in found] == ["CF439"]
    assert "rank 0 on node1 was told 2 ranks for its node, and node 0 has 1" in found[0].notes


def test_nodes_that_are_not_alike() -> None:
    """3 + 1 ranks, as all of them were told; the numbers of nodes may come in any order."""
    sizes = (3, 3, 3, 1)
    rank_infos = [
        replace(rank_info, local_world_size=size, node_rank=node, local_rank=local, host=f"node{node}")
        for rank_info, size, node, local in zip(four(), sizes, (0, 0, 0, 1), (0, 1, 2, 0), strict=True)
    ]
    assert disagreements(rank_infos) == ()
    assert ranks_per_node(rank_infos) == (3, 1)
    other = [replace(rank_info, node_rank=1 - rank_info.node_rank) for rank_info in rank_infos]
    assert disagreements(other) == ()
    assert ranks_per_node(other) == (1, 3)
    finding = only([replace(rank_info, num_nodes=3) for rank_info in rank_infos])
    assert finding.code == "CF439" and finding.notes == ("3 nodes were told, and ranks came from 2",)


class Told:
    """A meeting at which `rank_infos` came, for each of which a rank asks."""

    def __init__(self, rank_infos: list[RankInfo]) -> None:
        self.rank_infos = rank_infos

    def preflight(self, mine: RankInfo) -> tuple[tuple[RankInfo, ...], tuple[Finding, ...]]:
        return tuple(self.rank_infos), ()

    def refuse_together(self, findings: tuple[Finding, ...]) -> None:
        if findings:
            raise Refused(findings)


def three_nodes(rank: int) -> dict[str, str]:
    """What deepspeed tells a rank of 2, 3 and 1: its own node, of three."""
    node, size = ((0, 2), (0, 2), (1, 3), (1, 3), (1, 3), (2, 1))[rank]
    told = {"RANK": rank, "WORLD_SIZE": 6, "LOCAL_RANK": rank % size, "LOCAL_SIZE": size}
    return {name: str(n) for name, n in {**told, "CROSS_RANK": node, "CROSS_SIZE": 3}.items()}


@pytest.mark.parametrize(
    ("cluster", "planned", "refused"),
    [
        (None, (2, 3, 1), ""),  # left open: the plan takes what came
        ({"gpus_per_node": [2, 3, 1]}, (2, 3, 1), ""),
        ({"gpus_per_node": [1, 2, 3]}, (1, 2, 3), ""),
        ({"num_nodes": 3, "gpus_per_node": 2}, 2, "3 nodes x 2 GPUs, but deepspeed started 2 + 3 + 1 ranks"),
        ({"gpus_per_node": [4, 1, 1]}, (4, 1, 1), "3 nodes with 4 + 1 + 1 GPUs, but deepspeed started 2 + 3"),
    ],
)
def test_the_ranks_of_each_node_are_known_in_the_preflight_check(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cluster: dict[str, object] | None,
    planned: object,
    refused: str,
) -> None:
    config = str(small_config(tmp_path, cluster=cluster))
    worlds = [read_world(three_nodes(rank)) for rank in range(6)]
    statics = [read_and_check(config, [], world) for world in worlds]
    assert len({checked.sourced for checked in statics}) == 1, "before it all ranks believe the same"
    rank_infos = [rank_info_of(*pair, Device("cpu")) for pair in zip(statics, worlds, strict=True)]
    rank_infos = [replace(rank_info, host=f"node{rank_info.node_rank}") for rank_info in rank_infos]
    assert disagreements(rank_infos) == ()
    monkeypatch.setattr(rank_job, "meet", lambda world, environ, run_dir: Told(rank_infos))
    monkeypatch.setattr(rank_job, "look_at_device", lambda local_rank, environ: Device("cpu"))
    for checked, world in zip(statics, worlds, strict=True):
        assert rank_job.engine_of(checked, world) == "deepspeed"
        if refused:
            with pytest.raises(Refused, match="CF435") as refusal:
                rank_job.run_preflight(checked, world)
            assert refused in refusal.value.findings[0].title
            continue
        _, known, _ = rank_job.run_preflight(checked, world)
        assert known.ranks_per_node == (2, 3, 1)
        real = checked.on_nodes(known.ranks_per_node)
        assert real.sourced.topology.gpus_per_node == planned
        assert real.facts.batch is not None and real.facts.batch.topology == real.sourced.topology


def test_a_config_that_says_the_nodes_only(tmp_path: Path) -> None:
    """As many ranks as its 2 nodes might have; but they came from 3."""
    config = str(small_config(tmp_path, cluster={"num_nodes": 2}))
    told = {"RANK": 0, "WORLD_SIZE": 4, "LOCAL_RANK": 0, "LOCAL_SIZE": 2, "CROSS_RANK": 0, "CROSS_SIZE": 3}
    world = read_world({name: str(number) for name, number in told.items()})
    checked = read_and_check(config, [], world)
    assert rank_job.engine_of(checked, world) == "deepspeed"
    known = replace(world, ranks_per_node=(2, 1, 1))
    assert checked.on_nodes(known.ranks_per_node) == checked
    (finding,) = unplanned_nodes(known, checked.sourced.topology)
    assert (
        finding.title == "the plan is for 2 nodes x 2 GPUs, but deepspeed started 2 + 1 + 1 ranks on 3 nodes"
    )


@pytest.mark.parametrize(("layout", "gpus"), [((2, 1), (2, 1)), ((2, 2), 2), ((3,), 3)])
def test_the_paper_of_an_attempt_says_where_the_ranks_were(layout: tuple[int, ...], gpus: object) -> None:
    told = {"RANK": 0, "WORLD_SIZE": sum(layout), "LOCAL_RANK": 0, "LOCAL_SIZE": layout[0]}
    told |= {"CROSS_RANK": 0, "CROSS_SIZE": len(layout)}
    world = read_world({name: str(number) for name, number in told.items()})
    model = SimpleNamespace(model=SimpleNamespace(path="builtin:tiny"))
    run = SimpleNamespace(index_dir="index", path="my.yaml", overrides=(), config=model, spots={})
    sourced = SimpleNamespace(gpus_origin="my.yaml:3", nodes_origin="my.yaml:4")
    plan = SimpleNamespace(zero_stage=2, run=run, sourced=sourced)
    work = SimpleNamespace(
        world=world, resume_point=NEW_RUN, plan=plan, engine_kind="deepspeed", hosts=("a",), resumed=None
    )
    paper = acquire._attempt(work, (), {})  # type: ignore[arg-type]
    assert (paper.gpus_per_node, paper.num_nodes, paper.world_size) == (gpus, len(layout), sum(layout))


def test_one_node_that_is_two_machines() -> None:
    rank_infos = four()
    rank_infos[1] = replace(rank_infos[1], host="node9")
    finding = only(rank_infos)
    assert finding.code == "CF439" and finding.notes == ("node 0 is node1 and node9",)


def test_two_ranks_on_one_device() -> None:
    finding = only(four(gpu(0), gpu(0, visible=1, index=0), gpu(2), gpu(3)))
    assert finding.code == "CF436" and finding.title == "ranks 0 and 1 on node1 are on the same device"
    assert finding.notes == (
        "it is H100 uuid GPU-0",
        "taken as: index 0 of 2 visible, index 0 of 1 visible",
    )
    same_place = Device("cuda", 1, 0, "PCI 0000:01:00.0", "V100")
    devices = (same_place, gpu(1), replace(same_place), gpu(3))
    assert disagreements(four(*devices)) == (), "the same place on the bus of another machine"
    assert only(four(same_place, same_place, gpu(2), gpu(3))).code == "CF436"


def test_a_local_rank_beyond_the_devices() -> None:
    finding = only(four(gpu(0), gpu(1), gpu(2), Device("cuda", 0)))
    assert finding.code == "CF437" and finding.title == "rank 3 on node2 has LOCAL_RANK 1, but sees 0 GPUs"


@pytest.mark.lie("U2", answer="CF438")
def test_a_node_without_a_gpu() -> None:
    finding = only(four(gpu(0), gpu(1), Device("cpu"), Device("cpu")))
    assert finding.code == "CF438" and finding.notes == ("node2: no GPU", "node1: H100")


@pytest.mark.parametrize(
    ("visible", "local_rank", "index"), [(1, 0, 0), (1, 3, 0), (8, 3, 3), (8, 8, None), (0, 0, None)]
)
def test_the_device_index(visible: int, local_rank: int, index: int | None) -> None:
    assert choose_index(visible, local_rank) == index


def test_the_identity_of_a_device() -> None:
    bus = {"pci_domain_id": 0, "pci_bus_id": 0x1B, "pci_device_id": 0}
    assert identity_of(SimpleNamespace(uuid="11ab-22", **bus)) == "uuid 11ab-22"
    assert identity_of(SimpleNamespace(uuid="0000-00", **bus)) == "PCI 0000:1b:00.0"
    assert identity_of(SimpleNamespace(**bus)) == "PCI 0000:1b:00.0"
    assert identity_of(SimpleNamespace()) == ""


def read_back(text: str) -> RankInfo:
    return value_of(RankInfo, parse(text))


def test_what_one_rank_was_refused_for_is_said_once() -> None:
    refused = Finding("CF011", "in use", place=Place("c.yaml", 4, 12), notes=("n",), helps=("h",))
    rank_infos = four()
    rank_infos[0] = replace(rank_infos[0], refused=(refused,))
    travelled = [read_back(rank_info.to_json()) for rank_info in rank_infos]
    assert travelled == rank_infos
    assert disagreements(travelled) == (refused,)


def test_an_account_of_another_version_is_understood() -> None:
    text = four()[0].to_json().replace('"pid"', '"news": 1, "pid"')
    assert read_back(text) == four()[0]


def test_a_real_account(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    rank_info = rank_info_of(read_and_check(str(config), ["run.seed=9"]), read_world({}), Device("cpu"))
    assert rank_info.parts["config"]["run.seed"] == "9"
    assert rank_info.parts["deepspeed"]["zero_optimization.stage"] == "2"
    assert list(rank_info.parts["data"]) == [str(tmp_path / "data.jsonl")]
    assert rank_info.parts["code"]["cli.py"] and rank_info.parts["libraries"]["torch"][0].isdigit()
    assert rank_info.origins["config"] == f"{config} run.seed=9"
    assert read_back(rank_info.to_json()) == rank_info


def test_weights_of_one_size_and_another_content_are_other_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    os.mkfifo(tmp_path / "pipe.bin")  # which nobody opens
    run = read_and_check(str(small_config(tmp_path)), [f"model.path={tmp_path}"]).run
    told = []
    for content in (b"a" * 200_000, b"a" * 199_999 + b"b"):
        (tmp_path / "model.safetensors").write_bytes(content)
        told.append(model_facts(run)["model.safetensors"])
    assert told[0] != told[1] and all(one.startswith("200,000 bytes, parts sha256 ") for one in told)


def test_the_code_is_known_by_every_source_file(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("a.py", "deep/b.py"):
        (tmp_path / name).write_text("x = 1\n", encoding="utf-8")
    before = code_facts(tmp_path)
    (tmp_path / "deep" / "b.py").write_text("x = 2\n", encoding="utf-8")
    after = code_facts(tmp_path)
    assert list(before) == ["a.py", "deep/b.py"]
    assert before["a.py"] == after["a.py"] and before["deep/b.py"] != after["deep/b.py"]


def test_settings_are_compared_by_their_names() -> None:
    assert flat({"a": {"b": 1, "c": {}}, "d": [1, {"e": 2}], "f": None}) == {
        "a.b": "1", "a.c": "{}", "d": '[1, {"e": 2}]', "f": "null",
    }  # fmt: skip


# --- the meeting point


def _told(**more: str) -> dict[str, str]:
    told = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_SIZE": "2", "CROSS_RANK": "0"}
    return {**told, "CROSS_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **more}


def test_an_unknown_address_is_refused_before_torch() -> None:
    told = _told(MASTER_ADDR="no-such-host.invalid")
    with pytest.raises(Refused, match=r"CF433: rank 0 on .* cannot look up MASTER_ADDR no-such-host.invalid"):
        look_at_meeting_point(read_world(told), told)


def test_a_taken_port_is_refused_by_rank_0_alone() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        told = _told(MASTER_PORT=str(other.getsockname()[1]))
        with pytest.raises(Refused, match="CF434: port") as refused:
            look_at_meeting_point(read_world(told), told)
        assert any("in use" in note for note in refused.value.findings[0].notes)
        for meant in ({"RANK": "1", "LOCAL_RANK": "1"}, {"TORCHELASTIC_USE_AGENT_STORE": "True"}):
            environ = {**told, **meant}
            assert look_at_meeting_point(read_world(environ), environ)["MASTER_PORT"] == told["MASTER_PORT"]
    assert why_not_free(int(told["MASTER_PORT"])) is None


def test_waiting_for_a_listener() -> None:
    port = free_port()
    assert wait_for_listener("127.0.0.1", port, 0.3) == "connection refused"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        assert wait_for_listener("127.0.0.1", port, 5) is None


def test_which_addresses_are_of_this_machine() -> None:
    assert is_own_address("127.0.0.1") and not is_own_address("192.0.2.1")
