"""Doctor: findings from facts that are made up, machines asked through stand-ins for ssh and srun, and one
real look at this machine.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from crossfoot.doctor import asking, gather
from crossfoot.doctor.asking import Node, Question, ask_in_allocation, ask_over_ssh, is_in_allocation
from crossfoot.doctor.examination import examine
from crossfoot.doctor.judging import judge
from crossfoot.doctor.judging_gpus import has_kernels
from crossfoot.doctor.needs import Needs, WantedPath, read_hosts, read_needs
from crossfoot.doctor.network import Interface, nccl_takes
from crossfoot.doctor.page import render_page
from crossfoot.doctor.starters import Slurm, Starters
from crossfoot.findings.finding import Finding, Refused
from crossfoot.written.launch.statement import Host
from support.launching import ROOT, environment, small_config

SOURCE = ROOT / "src" / "crossfoot" / "doctor" / "gather.py"
WELL = Starters(Slurm("23.11.1", (("main*", "up", 2),)), "2.34", "9.2p1")
H100 = {"name": "NVIDIA H100 80GB HBM3", "memory_bytes": 85_000_000_000, "capability": "9.0"}
PINNED = dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
TWO_NODES = Needs(
    "run.yaml", 2, 8, "run.yaml:3", "bfloat16", True, (WantedPath("run folder", "runs", "write"),)
)


def facts(host: str = "node1", number: int = 1, **changes: Any) -> dict[str, Any]:
    """What a node in good health says. changes: `network__own_addresses=[...]` goes into network."""
    address = f"10.0.0.{number}"
    well: dict[str, Any] = {
        "host": host,
        "slurm_node": None,
        "folder": "/shared/work",
        "asked": {"folder": "/shared/work", "python": "/env/bin/python"},
        "python": {"version": "3.11.7", "path": "/env/bin/python"},
        "crossfoot": {"path": "/env/crossfoot", "sha256": "0123456789ab"},
        "versions": {name: PINNED.get(name, "2.0") for name in gather.LIBRARIES} | {"torch": "2.13.0+cu130"},
        "torch": {
            "version": "2.13.0+cu130",
            "cuda": "13.0",
            "rocm": None,
            "kernels": ["sm_80", "sm_90"],
            "devices": [H100] * 8,
        },
        "deepspeed": {"version": "0.19.8", "accelerator": "cuda", "ops_installed": [], "ops_compatible": []},
        "gpus": {"driver": "580.65", "devices": [{**H100, "used_bytes": 0}] * 8},
        "tools": {"compiler": "g++ 12.2.0", "ninja": "1.11.1", "nvcc": None},
        "network": {
            "interfaces": [
                {"name": "lo", "addresses": ["127.0.0.1"], "is_up": True, "is_bridge": False},
                {"name": "eth0", "addresses": [address], "is_up": True, "is_bridge": False},
                {"name": "docker0", "addresses": ["172.17.0.1"], "is_up": True, "is_bridge": True},
            ],
            "own_addresses": [address],
            "gloo_address": address,
            "meeting_point": "node1",
            "meeting_addresses": ["10.0.0.1"],
            "way_from": address,
        },
        "system": {
            "cpus": 96,
            "shm_bytes": 500 << 30,
            "open_files": 65_536,
            "locked_bytes": None,
            "has_infiniband": True,
        },
        "environ": {},
        "paths": {
            "runs": {
                "use": "write",
                "is_there": True,
                "nearest": "/shared/work/runs",
                "free_bytes": 10**12,
                "is_usable": True,
            }
        },
    }
    for path, value in changes.items():
        *sections, last = path.split("__")
        place = well
        for section in sections:
            place = place[section]
        place[last] = value
    return deepcopy(well)


def found(*nodes: Node, needs: Needs = TWO_NODES, starters: Starters = WELL) -> tuple[Finding, ...]:
    return judge(nodes, needs, starters, over_ssh=True)


def pair(**changes: Any) -> tuple[Node, Node]:
    """A node in good health, and node2, which has the changes."""
    return Node("node1", facts()), Node("node2", facts("node2", 2, **changes))


def test_two_nodes_in_good_health_have_no_findings_and_a_calm_page() -> None:
    nodes = pair()
    assert found(*nodes) == ()
    page = render_page(nodes, TWO_NODES, WELL, "over ssh")
    assert page.splitlines()[0] == "crossfoot doctor   node1 and node2 over ssh"
    assert "8 x NVIDIA H100 80GB HBM3" in page
    assert "no nvcc" in page
    assert page.count("2.13.0+cu130") == 1, "nodes that are alike are shown once"
    assert max(map(len, page.splitlines())) <= 80


BAD: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "old python": ({"python__version": "3.9.2"}, "CF401", "error", "is older than 3.10 on node2"),
    "no python there": ({"asked__python": "/gone/python"}, "CF401", "error", "/gone/python is not there on"),
    "no crossfoot": ({"crossfoot": None}, "CF401", "error", "crossfoot cannot be found on node2"),
    "no peft": ({"versions__peft": None}, "CF401", "error", "peft is not installed on node2"),
    "torch broken": (
        {"torch": {"problem": "OSError: libcudart.so.13: cannot open"}, "deepspeed": {"problem": "OSError"}},
        "CF401",
        "error",
        "torch cannot be imported (OSError: libcudart.so.13: cannot open) on node2",
    ),
    "deepspeed broken": ({"deepspeed": {"problem": "ImportError"}}, "CF401", "error", "deepspeed cannot be"),
    "other torch": ({"versions__torch": "2.12.0"}, "CF402", "error", "the nodes have different torch"),
    "other code": ({"crossfoot__sha256": "ffff"}, "CF402", "error", "different crossfoot's code"),
    "other python": ({"python__version": "3.12.1"}, "CF402", "warning", "different python"),
    "other driver": ({"gpus__driver": "570.1"}, "CF402", "warning", "different drivers"),
    "fewer GPUs": (
        {"torch__devices": [H100] * 4},
        "CF403",
        "error",
        "only 4 GPUs on node2, and the run asks for 8",
    ),
    "no GPU": (
        {"torch__devices": [], "gpus": {"driver": None, "devices": []}},
        "CF403",
        "error",
        "no GPU on node2",
    ),
    "hidden GPUs": (
        {"torch__devices": [], "environ": {"CUDA_VISIBLE_DEVICES": ""}},
        "CF403",
        "error",
        "no GPU",
    ),
    "torch for CPUs": (
        {"torch__cuda": None, "torch__devices": []},
        "CF404",
        "error",
        "8 x NVIDIA H100 80GB HBM3 on node2: torch 2.13.0+cu130 is built without CUDA",
    ),
    "old driver": (
        {"torch__cuda_problem": "RuntimeError: driver too old", "torch__devices": []},
        "CF404",
        "error",
        "the driver is 580.65",
    ),
    "driver gone": (
        {"gpus": {"driver": None, "devices": [], "problem": "nvidia-smi failed: version mismatch"}},
        "CF404",
        "error",
        "version mismatch",
    ),
    "no kernels": ({"torch__kernels": ["sm_100"]}, "CF404", "error", "no kernels for compute capability 9.0"),
    "name is loopback": (
        {"network__own_addresses": ["127.0.1.1"], "network__gloo_address": "127.0.1.1"},
        "CF405",
        "error",
        "the own host name of node2 means 127.0.1.1, the loopback",
    ),
    "name is unknown": (
        {
            "network__own_addresses": [],
            "network__own_problem": "Name or service not known",
            "network__gloo_address": "127.0.0.1",
        },
        "CF405",
        "error",
        "is not known (Name or service not known)",
    ),
    "no such interface": (
        {"environ": {"NCCL_SOCKET_IFNAME": "ib0"}},
        "CF406",
        "error",
        "NCCL_SOCKET_IFNAME is ib0, which no interface is called on node2",
    ),
    "loopback named": (
        {"environ": {"GLOO_SOCKET_IFNAME": "lo"}},
        "CF406",
        "error",
        "is lo, the loopback, on",
    ),
    "bridge comes first": (
        {
            "network__interfaces": [
                {"name": "br-1f", "addresses": ["172.18.0.1"], "is_up": True, "is_bridge": True},
                {"name": "eth0", "addresses": ["10.0.0.2"], "is_up": True, "is_bridge": False},
            ]
        },
        "CF406",
        "error",
        "NCCL would take br-1f",
    ),
    "meeting point unknown": (
        {"network__meeting_addresses": [], "network__meeting_problem": "no such name"},
        "CF406",
        "error",
        "node1, where ranks would meet, is not known (no such name) on node2",
    ),
    "no way": ({"network__way_from": None}, "CF406", "error", "there is no way to node1"),
    "meeting point is here": (
        {"network__meeting_addresses": ["127.0.1.1"]},
        "CF406",
        "error",
        "means 127.0.1.1",
    ),
    "other folder": (
        {"folder": "/root"},
        "CF408",
        "error",
        "the folder /shared/work, where this was started",
    ),
    "disk is read only": ({"paths__runs__is_usable": False}, "CF408", "error", "cannot be made"),
    "disk is full": ({"paths__runs__free_bytes": 10**9}, "CF408", "warning", "only 1.0 GB are free"),
    "small shm": ({"system__shm_bytes": 64 << 20}, "CF409", "warning", "/dev/shm has only 64 MiB on node2"),
    "few files": ({"system__open_files": 256}, "CF409", "warning", "only 256 files may be open"),
    "locked memory": ({"system__locked_bytes": 8 << 20}, "CF409", "warning", "only 8,192 kiB of memory"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_would_fail_is_named(name: str) -> None:
    changes, code, severity, words = BAD[name]
    nodes = pair(**changes)
    findings = found(*nodes)
    assert [(one.code, one.severity) for one in findings if words in one.title] == [(code, severity)], (
        findings
    )
    assert all(one.helps for one in findings)
    page = render_page(nodes, TWO_NODES, WELL, "")
    assert "node2" in page


def test_a_machine_without_gpus_says_where_the_ranks_run() -> None:
    none = {"gpus": {"driver": None, "devices": []}, "torch__devices": []}
    on_cpus = Node("node1", facts(**none, deepspeed__accelerator="cpu"))
    assert "  GPUs           none   ranks run on the CPUs\n" in render_page([on_cpus], TWO_NODES, WELL, "")
    broken = Node("node1", facts(**none, deepspeed={"problem": "ImportError"}))
    assert "  GPUs           none\n" in render_page([broken], TWO_NODES, WELL, "")


def test_one_cause_is_said_once() -> None:
    broken = {"torch": {"problem": "not there"}, "deepspeed": {"problem": "no module named torch"}}
    assert [one.title.split()[0] for one in found(*pair(**broken)) if one.code == "CF401"] == ["torch"]
    nodes = [Node(f"node{n}", facts(f"node{n}", n, system__open_files=256)) for n in range(1, 8)]
    assert [one.title for one in found(*nodes)] == [
        "only 256 files may be open on node1, node2, node3, node4 and 3 more"
    ]


def test_a_version_that_nobody_tried_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossfoot.doctor.judging.requires", lambda _: ["peft<0.22,>=0.21"])
    finding = next(one for one in found(*pair(versions__peft="0.22.1")) if one.code == "CF401")
    assert finding.severity == "warning"
    assert "peft 0.22.1" in finding.title and "<0.22,>=0.21) on node2" in finding.title


def test_a_difference_is_named_with_both_values() -> None:
    found_all = found(*pair(versions__torch="2.12.0", versions__peft="0.21.9"))
    (finding,) = (one for one in found_all if one.code == "CF402")
    assert finding.title == "the nodes have different torch and peft"
    assert finding.notes == (
        "torch: 2.13.0+cu130 on node1, 2.12.0 on node2",
        f"peft: {PINNED['peft']} on node1, 0.21.9 on node2",
    )


@pytest.mark.parametrize(("began", "ended", "ahead"), ((100.1, 102.9, 0), (131, 134, 31), (70, 73, -30)))
def test_clocks_are_held_against_the_asker(began: float, ended: float, ahead: float) -> None:
    told = asking._ahead({"began": began, "ended": ended}, sent=100.0, arrived=103.0)
    assert told == pytest.approx(ahead, abs=0.2)
    findings = found(Node("node1", facts()), Node("node2", facts("node2", 2), ahead_seconds=told))
    assert [one.notes for one in findings] == (
        []
        if not ahead
        else [(f"node2 is {abs(ahead)} s {'ahead of' if ahead > 0 else 'behind'} this machine",)]
    )


def test_a_loopback_name_matters_between_machines_only() -> None:
    changes = {"network__own_addresses": ["127.0.1.1"], "network__gloo_address": "127.0.1.1"}
    alone = Node("node1", facts(**changes))
    one_node = Needs("run.yaml", 1, 8, "run.yaml:3", "bfloat16")
    assert found(alone, needs=one_node) == ()
    assert [one.severity for one in found(alone, needs=Needs())] == ["warning"]
    assert [one.severity for one in found(alone)] == ["error"]
    named = Node("node1", facts(**changes, environ={"GLOO_SOCKET_IFNAME": "eth0"}))
    assert found(named) == ()


def test_without_any_gpu_a_run_on_cpus_is_a_warning_or_on_purpose() -> None:
    none = {"torch__cuda": None, "torch__devices": [], "gpus": {"driver": None, "devices": []}}
    alone = Needs("run.yaml", 1, 2, "run.yaml:3", "float32")
    (finding,) = found(Node("node1", facts(**none)), needs=alone)
    assert (finding.code, finding.severity) == ("CF403", "warning")
    assert found(Node("node1", facts(**none, environ={"DS_ACCELERATOR": "cpu"})), needs=alone) == ()
    half = Needs("run.yaml", 1, 2, "run.yaml:3", "float16")
    (finding,) = found(Node("node1", facts(**none, environ={"DS_ACCELERATOR": "cpu"})), needs=half)
    assert finding.severity == "error"


def test_slots_of_a_hostfile_are_held_against_the_gpus() -> None:
    node = Node("node1", facts(torch__devices=[H100] * 2), slots=4)
    (finding,) = found(node, needs=Needs("run.yaml", 1, None, "", "bfloat16"))
    assert "only 2 GPUs on node1, and the run asks for 4" in finding.title
    assert finding.notes == ("asked for by the hostfile's slots",)


@pytest.mark.parametrize(
    ("why", "help_"),
    (
        ("Permission denied (publickey).", "ssh-copy-id node9"),
        ("Host key verification failed.", "log in once by hand"),
        ("ssh: Could not resolve hostname node9", "DNS"),
        ("ssh: connect to host node9 port 22: Connection refused", "start sshd"),
        ("ssh: connect to host node9 port 22: Connection timed out", "is up"),
        ("sh: 1: exec: python3: not found", "install python3"),
    ),
)
def test_a_node_that_cannot_be_looked_at_is_named_with_the_repair(why: str, help_: str) -> None:
    (finding,) = found(Node("node9", problem=why), needs=Needs())
    assert (finding.code, finding.severity) == ("CF400", "error")
    assert finding.title == f"node9 cannot be looked at: {why.rstrip('.')}"
    assert help_ in finding.helps[0]


def test_starters() -> None:
    slurm = Slurm("23.11", (), "Unable to contact slurm controller (connect failure)")
    node = Node("node1", facts())
    codes = [
        (one.code, one.severity) for one in found(node, needs=Needs(), starters=Starters(slurm, None, "9"))
    ]
    assert codes == [("CF407", "error"), ("CF407", "warning")]
    nowhere = Slurm("", (), "Could not establish a configuration source", is_configured=False)
    assert found(node, needs=Needs(), starters=Starters(nowhere, "2", "9")) == ()


@pytest.mark.parametrize(
    ("wanted", "taken"),
    (
        (None, "eth0"),
        ("eth", "eth0"),
        ("=eth", None),
        ("=eth1", "eth1"),
        ("^eth0,lo,docker,virbr", "eth1"),
        ("lo", "lo"),
        ("eth1:1,ens", "eth1"),
    ),
)
def test_nccl_takes(wanted: str | None, taken: str | None) -> None:
    there = [Interface(name, ("10.0.0.1",)) for name in ("lo", "docker0", "virbr0", "eth0", "eth1")]
    chosen = nccl_takes(there, wanted)
    assert (chosen.name if chosen else None) == taken
    assert nccl_takes([*there, Interface("ib0", ("10.1.0.1",))], None) == Interface("ib0", ("10.1.0.1",))
    only = nccl_takes([there[0], there[1]], None)
    assert only is not None and only.name == "docker0"


@pytest.mark.parametrize(
    ("capability", "kernels", "runs"),
    (
        ("8.6", ["sm_80"], True),
        ("8.0", ["sm_86"], False),
        ("9.0", ["sm_80"], False),
        ("12.0", ["sm_90", "compute_90"], True),
        ("12.0", ["sm_100", "sm_120"], True),
        ("7.0", ["sm_75", "sm_80", "compute_120"], False),
        ("9.0", [], True),
    ),
)
def test_has_kernels(capability: str, kernels: Sequence[str], runs: bool) -> None:
    assert has_kernels(capability, kernels) is runs


def test_the_needs_of_a_config(tmp_path: Path) -> None:
    config = small_config(tmp_path, cluster={"num_nodes": 2, "gpus_per_node": 4})
    needs = read_needs(str(config), [], None, {})
    assert (needs.num_nodes, needs.gpus_per_node, needs.dtype) == (2, 4, "float32")
    assert [(wanted.name, wanted.use) for wanted in needs.paths] == [
        ("run folder", "write"),
        ("index", "write"),
        ("data.train", "read"),
        ("DeepSpeed file", "read"),
    ]
    missing = read_needs(str(config), ["model.path=/nowhere/model"], None, {})
    assert [finding.code for finding in missing.findings] == ["CF541"]


def test_a_hostfile_that_deepspeed_would_not_read_is_refused(tmp_path: Path) -> None:
    hostfile = tmp_path / "hosts"
    hostfile.write_text("node1 slots=8\nnode2 slots = 8\n", encoding="utf-8")
    with pytest.raises(Refused) as refused:
        read_hosts(str(hostfile))
    assert [finding.code for finding in refused.value.findings] == ["CF469"]
    with pytest.raises(Refused):
        read_hosts(str(tmp_path / "nowhere"))


def _program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder at the head of PATH; python without its libraries, so that nothing heavy is imported."""
    folder = tmp_path / "bin"
    _program(folder, "barepython", f'exec {sys.executable} -S "$@"')
    monkeypatch.setattr(sys, "executable", str(folder / "barepython"))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


SSH = """
while [ "$1" = -o ]; do [ "$2" = BatchMode=yes ] && batch=1; shift 2; done
[ "$1" = -- ] || { echo "whose word is $1?" >&2; exit 255; }
host=$2; shift 2
[ "$batch" = 1 ] || { echo "would ask for a password" >&2; exit 255; }
[ "$host" = node9 ] && { echo "root@node9: Permission denied (publickey)." >&2; exit 255; }
echo "welcome to $host"
cd /
exec env -i PATH=/usr/bin:/bin sh -c "$*"
"""


def test_nodes_are_asked_over_ssh(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(programs, "ssh", SSH)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "it's eth0")
    hosts = [Host(name, 2, None, None) for name in ("node1", "node9")]  # type: ignore[arg-type]
    first, lost = ask_over_ssh(hosts, Question((("/", "read"),), "localhost"), os.environ)
    assert (lost.facts, lost.problem) == ({}, "root@node9: Permission denied (publickey).")
    assert first.slots == 2
    assert first.ahead_seconds == 0
    assert first.facts["folder"] == os.getcwd(), "in the folder of the one who asks"
    assert first.facts["environ"]["NCCL_SOCKET_IFNAME"] == "it's eth0"
    assert first.facts["torch"]["problem"] == "not installed"
    assert first.facts["paths"]["/"]["is_usable"] is True
    assert first.facts["network"]["way_from"] in ("127.0.0.1", "::1")


def test_a_node_without_this_python_answers_with_another(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(programs, "ssh", SSH)
    _program(programs, "python3", 'exec barepython "$@"')
    monkeypatch.setattr(sys, "executable", "/gone/bin/python")
    question = Question((("runs", "write"),))
    (node,) = ask_over_ssh([Host("node1", 1, None, None)], question, os.environ)  # type: ignore[arg-type]
    assert node.facts["asked"]["python"] == "/gone/bin/python"
    assert any("/gone/bin/python is not there" in one.title for one in found(node, needs=Needs()))


def test_nodes_of_a_job_are_asked_by_srun(programs: Path) -> None:
    _program(
        programs,
        "srun",
        'while [ "$1" != sh ]; do shift; done\ncat > $0.in\nSLURMD_NODENAME=node2 "$@" < $0.in\n'
        'echo "srun: error: Task launch failed on node node1" >&2\necho "srun: Job step aborted" >&2; exit 1',
    )
    job = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]"}
    assert is_in_allocation(job)
    assert not is_in_allocation({**job, "SLURM_STEP_NUM_TASKS": "4"}), "one of many tasks looks at itself"
    first, second = ask_in_allocation(Question(), job)
    assert (first.name, first.problem) == ("node1", "srun: error: Task launch failed on node node1")
    assert second.name == "node2" and second.facts["host"]


def test_a_starter_that_hangs_ends(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _program(programs, "ssh", "exec sleep 60")
    monkeypatch.setattr(asking, "_NODE_SECONDS", 0.3)
    (node,) = ask_over_ssh([Host("node1", 1, None, None)], Question(), os.environ)  # type: ignore[arg-type]
    assert node.problem == "no answer within 0 s"


BROKEN = {
    "raise OSError('libcudart.so.13: cannot open')": "OSError: libcudart.so.13: cannot open",
    "import time; time.sleep(60)": "importing it did not end within 1 s",
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": "importing it was ended by signal 11",
    "raise SystemExit('no licence')": "SystemExit: no licence",
}


def test_answers_of_several_nodes_come_among_each_other() -> None:
    pieces = asking._Pieces()
    lines = ["n1/7 1/3 {", "n2/7 1/2 [1, ", "n1/7 3/3 }", "n2/7 2/2  2]", 'n1/7 2/3 "a": "b c"']
    assert [pieces.joined(line) for line in lines] == [None, None, None, "[1,  2]", '{"a": "b c"}']
    with pytest.raises(ValueError, match="values to unpack"):
        pieces.joined("half")
    with pytest.raises(ValueError, match="invalid literal"):
        pieces.joined("n1/7 of something")


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_torch_breaks_nothing_else(tmp_path: Path, text: str) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(text, encoding="utf-8")
    seconds = 1.0 if "time.sleep" in text else 30.0
    request = {**json.loads(Question().to_json()), "seconds": seconds}
    done = subprocess.run(
        [sys.executable, "-", json.dumps(request)],
        input=SOURCE.read_text(encoding="utf-8"),
        env={**environment(), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=45,
    )
    pieces = asking._Pieces()
    texts = [pieces.joined(line.removeprefix(gather.MARK)) for line in done.stdout.splitlines()]
    told = json.loads(texts[-1] or "")
    assert BROKEN[text] in told["torch"]["problem"]
    assert told["python"]["path"] == sys.executable


def test_the_exit_code_and_the_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(changes: Mapping[str, Any]) -> None:
        node = Node("node1", facts(**changes))
        monkeypatch.setattr("crossfoot.doctor.examination.ask_here", lambda question: node)
        monkeypatch.setattr("crossfoot.doctor.examination.look_at_starters", lambda environ: WELL)

    answer({})
    assert examine(None, [], None, {}) == 0
    assert capsys.readouterr().out.endswith("\n\nnothing would fail\n")
    answer({"versions__peft": None})
    assert examine(None, [], None, {}) == 1
    assert "error[CF401]: peft is not installed on node1" in capsys.readouterr().out
    assert examine(None, [], None, {}, is_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["would_fail"] is True
    assert told["findings"][0]["code"] == "CF401"


WATCHED = """
import sys
from crossfoot.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "transformers", "deepspeed", "peft", "accelerate", "datasets"} & set(sys.modules)
print(f"heavy: {sorted(heavy)}", file=sys.stderr)
sys.exit(code)
"""


def test_this_machine_is_really_looked_at(tmp_path: Path) -> None:
    config = small_config(tmp_path, cluster={"num_nodes": 1, "gpus_per_node": 1})
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, "doctor", str(config), "data.max_seq_len=128", "--json"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "heavy: []" in done.stderr, done.stderr
    assert done.returncode == 0, done.stdout
    told = json.loads(done.stdout)
    (node,) = told["nodes"]
    torch_says, package_says = node["facts"]["torch"]["version"], node["facts"]["versions"]["torch"]
    assert torch_says.partition("+")[0] == package_says.partition("+")[0], "one may leave out +cu130"
    assert node["facts"]["deepspeed"]["version"] == node["facts"]["versions"]["deepspeed"]
    assert node["facts"]["paths"][str(tmp_path / "run")]["is_usable"] is True
    assert told["asked_for"]["num_nodes"] == 1
