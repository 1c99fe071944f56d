"""Launch scripts beside their numbers: files that are elsewhere, variables, arrays, signals, characters."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossfoot.findings.finding import Finding
from field_scripts import FIELD
from launch_findings import MEET, RUN, SRUN, TORCHRUN, batch, found

__all__ = ["found"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"deepspeed --hostfile /cluster/hosts {RUN}\n", ["CF455"]),
        (f"deepspeed --hostfile /job/hostfile {RUN}\n", []),
        (f"bash /cluster/prepare.sh\ndeepspeed --hostfile hosts {RUN}\n", ["CF455"]),
        ("deepspeed --hostfile hosts train.py /cluster/config.yaml\n", ["CF461"]),
        (
            "cd /cluster\nsource venv/bin/activate\ndeepspeed -H hosts train.py config.yaml\n",
            ["CF455", "CF461"],
        ),
        (f"accelerate launch --config_file /cluster/a.yaml {RUN}\n", ["CF455"]),
        (f"accelerate launch --num_processes 1 --deepspeed_config_file /cluster/zero2.json {RUN}\n", []),
    ],
)
def test_what_only_the_cluster_has_is_a_note(found, text: str, said: list[str]) -> None:
    findings = found(text)
    assert [finding.code for finding in findings] == said
    assert all(finding.severity == "note" for finding in findings)


def test_another_config_of_the_cluster_is_another_run(found) -> None:
    (finding,) = found("deepspeed --hostfile hosts train.py /cluster/other.yaml\n")
    assert (finding.code, finding.severity) == ("CF461", "error")


def test_a_script_that_is_not_there(found) -> None:
    (finding,) = found(f"bash prepare.sh\ndeepspeed --hostfile hosts {RUN}\n")
    assert (finding.code, finding.severity) == ("CF455", "warning")


def test_two_starts_with_other_words_are_not_laid_over_each_other(found) -> None:
    start = f"deepspeed --hostfile hosts {RUN}"
    (finding,) = found(f"{start}\n", f"{start} train.epochs=2\n")
    assert (finding.code, finding.severity) == ("CF461", "error")


@pytest.mark.parametrize(
    ("writing", "code"),
    [
        ("scontrol show hostnames $NODES | sed 's/$/ slots=8/' > $H", None),
        ('for h in $(scontrol show hostnames); do echo "$h slots=$G" >> $H; done', None),
        ("srun hostname | while read h; do printf '%s slots=8\\n' $h; done > $H", None),
        ("srun hostname | awk '{print $0\" slots=4\"}' > $H", "CF453"),
        ("for h in $(hosts); do echo $h slots=4; done > $H", "CF453"),
        ("make_a_hostfile > $H", "CF418"),
        (": nobody writes it", "CF418"),
    ],
)
@pytest.mark.parametrize("path", ["hosts.$SLURM_JOB_ID", "$(mktemp)", "./written"])
def test_a_hostfile_of_which_only_the_slots_are_written(
    found, writing: str, code: str | None, path: str
) -> None:
    findings = found(f"G=8\nH={path}\n{writing}\ndeepspeed --hostfile $H {RUN}\n")
    if path == "./written" and writing.startswith(":"):
        code = "CF455"
    assert [finding.code for finding in findings] == ([code] if code else [])


def test_a_script_that_is_written_and_then_run(found) -> None:
    text = (
        "cat > run.sh <<'E'\ndeepspeed --hostfile hosts --num_gpus {} "
        + RUN
        + "\nE\nchmod +x run.sh\n./run.sh\n"
    )
    assert found(text.format(8)) == []
    assert [finding.code for finding in found(text.format(4))] == ["CF453"]


JOB = "-N 2;--ntasks-per-node=8;--gpus-per-node=8"
ONE_EACH = "-N 2;--ntasks-per-node=1;--gpus-per-node=8"


@pytest.mark.parametrize(
    ("text", "code", "severity"),
    [
        # variables of a rank
        (batch(JOB, f"export RANK=0 WORLD_SIZE=16 LOCAL_RANK=0\n{SRUN}"), "CF463", "error"),
        (batch(JOB, f"export RANK=$SLURM_PROCID\n{SRUN}"), "CF463", "error"),
        (batch(JOB, f"declare -x LOCAL_RANK=3\n{SRUN}"), "CF463", "error"),
        (batch(JOB, f"WORLD_SIZE=8 {SRUN}"), "CF463", "error"),
        (batch(JOB, f"env RANK=1 {SRUN}"), "CF463", "error"),
        (batch(JOB, f"srun --export=ALL,RANK=0 python {RUN}"), "CF463", "error"),
        (batch(JOB, f"export MASTER_ADDR=127.0.0.1\n{SRUN}"), "CF463", "error"),
        ("LOCAL_RANK=0 python " + RUN, "CF463", "error"),
        ("RANK=0 WORLD_SIZE=2 python " + RUN, "CF463", "error"),
        (batch(JOB, f"export WORLD_SIZE=16 MASTER_ADDR=$(hostname) MASTER_PORT=29500\n{SRUN}"), None, ""),
        (batch(JOB, f"export WORLD_SIZE=$SLURM_NTASKS\n{SRUN}"), None, ""),
        (batch(JOB, f"srun bash -c 'export RANK=$SLURM_PROCID; python {RUN}'"), None, ""),
        (f"export RANK=0 WORLD_SIZE=1\ndeepspeed --hostfile hosts {RUN}\n", None, ""),
        (f"RANK=0 WORLD_SIZE=1 python {RUN}\n", None, ""),
        # which node
        (
            batch(ONE_EACH, f"srun {TORCHRUN} --master_addr a --node_rank $SLURM_NODEID {RUN}"),
            "CF463",
            "error",
        ),
        (batch(ONE_EACH, f"srun {TORCHRUN} {MEET} --node_rank $SLURM_NODEID {RUN}"), None, ""),
        (
            batch(ONE_EACH, f"srun bash -c '{TORCHRUN} --master_addr a --node_rank $SLURM_NODEID {RUN}'"),
            None,
            "",
        ),
        # arrays
        (batch(f"{JOB};--array=0-3", SRUN), "CF462", "error"),
        (batch(f"{JOB};--array=1,3", f"{SRUN} run.seed=$SLURM_ARRAY_TASK_ID"), "CF462", "error"),
        (batch(f"{JOB};--array=0-3%1", SRUN), "CF462", "error"),
        (batch(f"{JOB};--array=0-3%1", f"{SRUN} --continue auto"), None, ""),
        (batch(f"{JOB};-a 0-3", f"{SRUN} run.name=a-$SLURM_ARRAY_TASK_ID"), None, ""),
        (batch(f"{JOB};-a 0-3", "srun python train.py c$SLURM_ARRAY_TASK_ID.yaml"), None, ""),
        (batch(f"{JOB};--array=7", SRUN), None, ""),
        # one node, unless sbatch is told otherwise
        ("#!/bin/bash\n#SBATCH --ntasks-per-node=8 --gpus-per-node=8\n" + SRUN, "CF452", "warning"),
        ("#!/bin/bash\n#SBATCH --ntasks=16 --gpus-per-node=8\n" + SRUN, None, ""),
        # no GPUs
        ("#!/bin/bash\n#SBATCH -N 2 --ntasks-per-node=8\n" + SRUN, "CF453", "warning"),
        ("#!/bin/bash\n#SBATCH -N 2 --ntasks-per-node=8 --gres=gpu:0\n" + SRUN, "CF453", "warning"),
        ("#!/bin/bash\n#SBATCH -N 2 --ntasks-per-node=8\nexport DS_ACCELERATOR=cpu\n" + SRUN, None, ""),
        (
            f"#!/bin/bash\n#SBATCH -N 2 --ntasks-per-node=8\nsrun --gpus-per-task=1 python {RUN}\n",
            None,
            "",
        ),
        (batch("-N 2;--ntasks-per-node=8;--tres-per-node=gres/gpu:8", SRUN), None, ""),
        # the warning before the time limit
        (batch(f"{JOB};--signal=USR1@120", SRUN), None, ""),
        (batch(f"{JOB};--signal=12@60", SRUN), None, ""),
        (batch(f"{JOB};--signal=B:USR1@120", SRUN), "CF472", "warning"),
        (batch(f"{JOB};--signal=B:USR1@120", f"exec {SRUN}"), None, ""),
        (batch(f"{JOB};--signal=B:USR1@120", f"trap 'kill -USR1 $p' USR1\n{SRUN}"), "CF472", "warning"),
        (
            batch(f"{JOB};--signal=B:USR1@120", f"trap 'kill -USR1 $p' SIGUSR1\n{SRUN} &\np=$!\nwait"),
            None,
            "",
        ),
        (batch(f"{JOB};--signal=B:USR1@120", f"trap '' USR1\n{SRUN} &\nwait"), "CF472", "warning"),
        (batch(f"{JOB};--signal=WINCH@120", SRUN), "CF472", "warning"),
        (batch("-N 2;--gpus-per-node=8;--signal=USR1", f"deepspeed -H hosts {RUN}"), "CF472", "warning"),
    ],
)
def test_what_a_batch_script_does_beside_its_numbers(
    found, text: str, code: str | None, severity: str
) -> None:
    findings = found(text)
    assert [(each.code, each.severity) for each in findings] == ([(code, severity)] if code else [])


START = "deepspeed --hostfile hosts"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (f"{START} \u2013num_gpus 8 {RUN}\n", "--num_gpus"),
        (f"{START} \u2014-num_gpus=8 {RUN}\n", "--num_gpus=8"),
        (f"{START} \u2212\u2212num_gpus 8 {RUN}\n", "--num_gpus"),
        (f"{START} --num\u2011gpus 8 {RUN}\n".replace("num\u2011gpus", "num_gpus\u3000"), "--num_gpus"),
        (f"{START} --num_gpus \uff18 {RUN}\n", "8"),
        (f"N=\uff18\n{START} --num_gpus $N {RUN}\n", "8"),
        (f"{START} {RUN} batch.micro_batch_size\uff1d4\n", "batch.micro_batch_size=4"),
        (f"{START} {RUN} run.name=\u201cdemo\u201d\n", 'run.name="demo"'),
        (f"{START}\u00a0{RUN}\n", "hosts train.py"),
        (f"{START} \uff3c\n{RUN}\n", "\\"),
        (f"{START} {RUN}\u200b\n", "config.yaml"),
        (f"{START} {RUN} \uff06\uff06 echo done\n", "&&"),
        (f"\uff03 a comment\n{START} {RUN}\n", "#"),
        (f"NODES\uff1d2\n{START} {RUN}\n", "NODES=2"),
        (f"python \uff0du {RUN}\n", "-u"),
        (batch(JOB, f"srun \uff0d\uff0dnodes=2 python {RUN}"), "--nodes=2"),
        (batch("\u2013\u2013nodes=2;--ntasks-per-node=8;--gpus-per-node=8", SRUN), "--nodes=2"),
        (batch("-N 2;--ntasks-per-node=\uff18;--gpus-per-node=8", SRUN), "--ntasks-per-node=8"),
    ],
)
def test_characters_that_only_look_plain(found, text: str, meant: str) -> None:
    findings = [each for each in found(text) if each.code == "CF419"]
    assert [each.helps[0] for each in findings] == [f"write {meant}"]


@pytest.mark.parametrize(
    "words",
    [
        "run.name=\u5b9e\u9a8c\uff08\u4e00\uff09",
        "run.name='a\u3000b'",
        'run.name="\u201ca\u201d"',
        "run.name=a\u2014b",
        "run.name=\u5b9e\u9a8c\uff11",
    ],
)
def test_what_is_only_text(found, words: str) -> None:
    assert found(f"# \uff08\u4e00\uff09 \u2014\n{START} {RUN} {words}\necho '\uff0d\uff0d' \u2013\n") == []


def test_numbers_behind_such_characters_are_held_as_they_were_meant(found) -> None:
    codes = [each.code for each in found(f"{START} \uff0d\uff0dnum_gpus \uff17 {RUN}\n")]
    assert codes == ["CF419", "CF453"]


def test_windows_line_ends_of_a_shell_script(found) -> None:
    Path("inner.sh").write_bytes(f"{START} {RUN}\r\n".encode())
    for text in (f"{START} \\\r\n {RUN}\r\n", "bash inner.sh\n"):
        (finding,) = found(text)
        assert (finding.code, "Windows line ends" in finding.title) == ("CF419", True)


def test_many_of_one_kind_are_told_once(found) -> None:
    late = "".join(f"#SBATCH --comment={number}\n" for number in range(20))
    (finding,) = found(f"{batch(JOB, SRUN)}{late}")
    assert (finding.code, "the same of 19 more places in this file" in finding.notes) == ("CF472", True)
    (finding,) = found("".join(f"n{number} slot=8\n" for number in range(50)) + "n1 slots=8\nn2 slots=8\n")
    assert finding.code == "CF469"


# ---- scripts of the field: right, with a wrong number, with a part that only the run knows ---------------


def held(found, name: str, number: str) -> list[Finding]:
    words = ("cluster.num_nodes=1",)
    text = FIELD[name].replace("@@", number)
    return found(text, words=words if words[0] in text else ())


@pytest.mark.parametrize("name", FIELD)
def test_a_right_number_is_nothing(found, name: str) -> None:
    assert held(found, name, "8") == []


@pytest.mark.parametrize("name", FIELD)
def test_a_wrong_number_is_an_error_with_both_places(found, name: str) -> None:
    findings = held(found, name, "7")
    (wrong,) = [each for each in findings if each.severity == "error"]
    files = [place.file for place in (wrong.place, *(place for place, _ in wrong.others)) if place]
    assert wrong.code in ("CF453", "CF454")
    assert (files[0], files[-1]) == ("launch0", "config.yaml")


@pytest.mark.parametrize("name", FIELD)
def test_a_number_that_only_the_run_knows_is_said(found, name: str) -> None:
    codes = [each.code for each in held(found, name, "$(calc)")]
    assert codes == ["CF418"]


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("ssh n1 'cd /w && torchrun --nnodes 2 train.py config.yaml' &\n", ["CF418"]),
        (f"pdsh -w n[1-2] 'cd /w; {TORCHRUN} {MEET} {RUN}'\n", ["CF418"]),
        (f"kubectl exec pod-0 -- bash -c '{TORCHRUN} {RUN}'\n", ["CF418"]),
        (f"salloc -N 2 srun -n 16 python {RUN}\n", ["CF418"]),
        (
            f"torchrun --nnodes $WORLD_SIZE --node_rank $RANK --nproc-per-node 8 --master_addr a {RUN}\n",
            ["CF418"],
        ),
        (batch(ONE_EACH, f"srun torchrun --nnodes $SLURM_NNODES --nproc-per-node 8 {MEET} {RUN}"), []),
        (
            batch(
                ONE_EACH,
                f"srun torchrun --nnodes $SLURM_NNODES --nproc-per-node $((SLURM_NNODES*4)) {MEET} {RUN}",
            ),
            [],
        ),
        (
            batch(ONE_EACH, f"srun torchrun --nnodes 2 --nproc-per-node $((SLURM_NNODES*3)) {MEET} {RUN}"),
            ["CF453"],
        ),
        (f"torchrun --nnodes 2 --nproc-per-node $(nvidia-smi -L | wc -l) {MEET} {RUN}\n", []),
        (f"#!/bin/bash\n#SBATCH -N 1 -n 8\n#SBATCH hetjob\n#SBATCH -N 1 -n 4\n{SRUN}\n", ["CF418"]),
        (f"sbatch -N 4 --ntasks-per-node=8 --gpus-per-node=8 --wrap='{SRUN}'\n", ["CF452"]),
    ],
)
def test_what_other_starters_are_given(found, text: str, codes: list[str]) -> None:
    assert [each.code for each in found(text)] == codes


def test_options_of_sbatch_overrule_those_of_the_script(found) -> None:
    Path("job.sbatch").write_text(batch(JOB, SRUN))
    assert found("sbatch job.sbatch\n") == []
    (finding,) = found("sbatch --nodes=4 job.sbatch\n")
    assert (finding.code, str(finding.place)) == ("CF452", "launch0:1:16")


@pytest.mark.parametrize(
    "start",
    ["torchrun --nnodes 2 run_clm_sft_with_peft.py", "python finetune.py", "llamafactory-cli train a.yaml"],
)
def test_another_trainer(found, start: str) -> None:
    finding = found(f"{start}\n")[-1]
    assert (finding.code, finding.severity) == ("CF477", "warning")
    assert finding.notes[0].startswith("it starts ")
    besides = [each.severity for each in found(f"{START} {RUN}\n{start}\n") if each.code == "CF477"]
    assert besides == ([] if start.startswith("python") else ["note"])


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("worker-1 slots\uff1d8\nworker-2 slots=8\n", "worker-1 slots=8"),
        ("worker-1 slots=8\nworker-2 slots=\uff18\n", "worker-2 slots=8"),
        (
            "distributed_type: MULTI_GPU\nnum_machines\uff1a2\nnum_processes: 16\nmain_process_ip: a\n",
            "num_machines: 2",
        ),
        (
            "distributed_type: MULTI_GPU\nnum_machines: 2\nnum_processes: \uff11\uff16\nmain_process_ip: a\n",
            "num_processes: 16",
        ),
    ],
)
def test_other_files_with_characters_that_only_look_plain(found, text: str, meant: str) -> None:
    (finding,) = found(text)
    assert (finding.code, finding.helps) == ("CF419", (f"write {meant}",))


def test_the_same_gpus_twice_is_no_contradiction(found) -> None:
    words = ("cluster.num_nodes=1", "cluster.gpus_per_node=2")
    command = "CUDA_VISIBLE_DEVICES=0,1 deepspeed --include localhost:{} " + f"{RUN} {' '.join(words)}\n"
    assert found(command.format("0,1"), words=words) == []
    (finding,) = found(command.format("2,3"), words=words)
    assert finding.code == "CF471"
