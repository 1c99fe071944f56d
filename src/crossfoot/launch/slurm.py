"""SLURM: a batch script, one task a rank or one torchrun a node.

One task a rank is the usual form: SLURM then signals, counts and cleans up the ranks themselves, and srun
hands on their exit code. A launcher in between would need `--signals-to-handle`, and makes 1 of every code.
"""

from __future__ import annotations

from crossfoot.environment.slurm import FIRST_PORT, NUM_PORTS
from crossfoot.launch.job import Job, Rendered, script_file
from crossfoot.launch.shell_text import Raw, command_text, comment, directive, export
from crossfoot.shell_words import quoted_path

SIGNAL_SECONDS = 120
_LONGEST_TIME = 3
_KEPT_BACK_SECONDS = 10
"""Of the warning time, for SLURM's own end of the job."""
_REQUEUE = 'if [ $code -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi'


def render(job: Job) -> Rendered:
    """A batch script for `sbatch`."""
    by_node = job.options.tasks == "node"
    how = "one torchrun a node" if by_node else "one task a rank"
    text = script_file(
        [
            *job.heading(f"by SLURM, {how}"),
            comment(
                f"submit with: mkdir -p {quoted_path(job.run_dir)} && sbatch {quoted_path(path_of(job))}"
            ),
            *_directives(job),
            "",
            *(export(name, value) for name, value in job.exports.items()),
            *(["export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"] if job.options.cpus_per_task else []),
            *(_one_torchrun_a_node(job) if by_node else _one_task_a_rank(job)),
            "# stopped by a signal, with a checkpoint: queue the job again; it goes on from there",
            _REQUEUE,
            "exit $code",
        ]
    )
    path = path_of(job)
    return Rendered(((path, text),), ("sbatch", "--parsable", path), ("sbatch", "srun", "squeue", "scontrol"))


def limit_seconds(time: str) -> int | None:
    """Seconds of a time limit as sbatch reads it: `90`, `90:00`, `1:30:00`, `2-0`, `2-12:00`, `2-12:00:00`;
    None for no limit (`0`, `UNLIMITED`) and for anything else.
    """
    days, dash, rest = time.partition("-") if "-" in time else ("0", "", time)
    parts = rest.split(":")
    if not all(part.isascii() and part.isdigit() for part in (days, *parts)) or len(parts) > _LONGEST_TIME:
        return None
    first = 3_600 if dash or len(parts) == _LONGEST_TIME else 60
    seconds = (int(part) * first // 60**place for place, part in enumerate(parts))
    return int(days) * 86_400 + sum(seconds) or None


def path_of(job: Job) -> str:
    """Path of the batch script."""
    return f"{job.stem}.sbatch"


def log_path(run_dir: str, job_id: str) -> str:
    """Where the job writes."""
    return f"{run_dir}/slurm-{job_id}.log"


def _directives(job: Job) -> list[str]:
    options = job.options
    asked: tuple[tuple[str, str | int | None], ...] = (
        ("--job-name", job.name),
        ("--nodes", job.num_nodes),
        *_tasks_and_gpus(job),
        ("--cpus-per-task", options.cpus_per_task),
        ("--time", options.time),
        ("--partition", options.partition),
        ("--account", options.account),
        ("--output", log_path(job.run_dir.replace("%", "%%"), "%j")),
        ("--signal", f"USR1@{options.signal_seconds or SIGNAL_SECONDS}"),
    )
    lines = [directive(option, value) for option, value in asked if value is not None]
    return [*lines, directive("--open-mode", "append"), directive("--requeue")]


def _tasks_and_gpus(job: Job) -> list[tuple[str, str | int]]:
    """Per node; where nodes are not alike, tasks in all, each of which brings a GPU to its node."""
    gpus = job.cluster.gpus_per_node
    if isinstance(gpus, int):
        tasks = 1 if job.options.tasks == "node" else gpus
        asked: list[tuple[str, str | int]] = [("--ntasks-per-node", tasks), ("--gpus-per-node", gpus)]
    else:
        asked = [("--ntasks", job.world_size), ("--gpus-per-task", 1)]
    return asked if job.uses_gpus else asked[:1]


def _one_task_a_rank(job: Job) -> list[str]:
    return [
        "# each task is a rank; before the time limit SLURM sends all of them SIGUSR1",
        command_text(["srun", job.tool("python"), "-u"], job.trained()),
        "code=$?",
    ]


def _one_torchrun_a_node(job: Job) -> list[str]:
    warning = job.options.signal_seconds or SIGNAL_SECONDS
    launcher = ["srun", job.tool("torchrun"), "--nnodes", Raw('"$SLURM_NNODES"')]
    launcher += ["--nproc-per-node", str(job.cluster.gpus_per_node)]
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", Raw('"$first:$port"')]
    meeting += ["--rdzv-id", Raw('"$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}"')]
    signals = ["--signals-to-handle", "SIGTERM,SIGINT,SIGUSR1"]
    signals += ["--shutdown-timeout", str(max(_KEPT_BACK_SECONDS, warning - _KEPT_BACK_SECONDS))]
    began = quoted_path(f"{job.run_dir}/slurm-began")
    endings = f"find {quoted_path(job.run_dir)} -maxdepth 2 -name ending.json"
    return [
        "# one torchrun a node; they meet on the first one, and hand SLURM's SIGUSR1 on to the ranks",
        'first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        f"port=$(({FIRST_PORT} + SLURM_JOB_ID % {NUM_PORTS}))",
        f"touch {began}",
        command_text(launcher, meeting, signals, job.trained()),
        "code=$?",
        "# torchrun ends with 1 whatever its ranks end with; they have written it down",
        f"stopped=$({endings} \\",
        f"""  -newer {began} -exec grep -l '"exit_code": 75' {{}} +)""",
        'if [ -n "$stopped" ]; then code=75; fi',
    ]
