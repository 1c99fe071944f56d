"""The options of each launcher, and how it takes them apart: which have a value, which may be shortened.

Sources: `man srun` and `man sbatch` (22.05 to 24.05); the argparse tables of deepspeed 0.19.8
(launcher/runner.py), torch 2.13 (distributed/run.py) and accelerate 1.15 (commands/launch.py). A test holds
the last three against the installed parsers.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from crossfoot.findings.finding import Place
from crossfoot.written.launch.shell_tree import OffsetText
from crossfoot.written.launch.statement import UNKNOWN, Argument, LayerKind, Option
from crossfoot.written.source import Source


@dataclass(frozen=True)
class Grammar:
    """How one program reads its options.

    valued, switches: names in one spelling. optional: a value only behind `=`. short: letters and the name
    they stand for. prefixes: a unique beginning of a name is enough. alike: `-` and `_` are the same inside a
    name. families: beginnings of names that take a value and are not listed. facts: names of which a slip of
    the keyboard is looked for.
    """

    valued: frozenset[str]
    switches: frozenset[str]
    optional: frozenset[str] = frozenset()
    short: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    prefixes: bool = True
    alike: bool = False
    families: tuple[str, ...] = ()
    facts: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """Every long name."""
        return self.valued | self.switches | self.optional | frozenset(self.aliases)

    def find(self, written: str) -> str | None:
        """The name that a long option means; None when it has none, or several."""
        name = self._spelt(written)
        if name in self.names:
            return self.aliases.get(name, name)
        if name.startswith(self.families or ("\0",)):
            return name
        found = {
            self.aliases.get(each, each) for each in self.names if self.prefixes and each.startswith(name)
        }
        return found.pop() if len(found) == 1 and len(name) > 2 else None

    def _spelt(self, written: str) -> str:
        return "--" + written[2:].replace("-", "_") if self.alike else written

    def takes_value(self, name: str) -> bool:
        """Whether the next word belongs to the option."""
        return name in self.valued or (
            name not in self.switches | self.optional and name.startswith(self.families or ("\0",))
        )

    def nearest(self, written: str) -> str | None:
        """The option of the run's facts that a misspelt one probably means."""
        close = difflib.get_close_matches(self._spelt(written), sorted(self.facts), n=1, cutoff=0.85)
        return close[0] if close else None


def _names(text: str) -> frozenset[str]:
    return frozenset(f"--{name}" for name in text.split())


_SLURM_VALUED = _names(
    "account acctg-freq bb bbf begin cpus-per-task comment container cpu-freq cpu-bind mem-bind dependency "
    "deadline delay-boot chdir error gres gres-flags input job-name licenses clusters distribution mail-type "
    "mail-user mcs-label nodes ntasks ntasks-per-node tasks-per-node output partition power priority profile "
    "qos core-spec signal switches thread-spec time time-min wckey cluster-constraint constraint mem mincpus "
    "reservation tmp nodelist exclude mem-per-cpu sockets-per-node cores-per-socket threads-per-core "
    "extra-node-info ntasks-per-core ntasks-per-socket ntasks-per-gpu cpus-per-gpu gpus gpu-bind gpu-freq "
    "gpus-per-node gpus-per-socket gpus-per-task mem-per-gpu hint network export-file container-id prefer "
    "tres-per-task tres-per-node tres-bind tres-freq oom-kill-step segment open-mode"
)
_SLURM_SWITCHES = _names(
    "hold no-kill overcommit quiet reboot oversubscribe spread-job use-min-nodes verbose contiguous help "
    "usage version wait-all-nodes test-only"
)
_SLURM_OPTIONAL = _names("exclusive nice propagate x11")
_SLURM_SHORT = {
    "A": "--account", "B": "--extra-node-info", "b": "--begin", "c": "--cpus-per-task", "C": "--constraint",
    "d": "--dependency", "D": "--chdir", "e": "--error", "G": "--gpus", "H": "--hold", "h": "--help",
    "i": "--input", "J": "--job-name", "k": "--no-kill", "L": "--licenses", "M": "--clusters",
    "m": "--distribution", "n": "--ntasks", "N": "--nodes", "o": "--output", "O": "--overcommit",
    "p": "--partition", "q": "--qos", "Q": "--quiet", "s": "--oversubscribe", "S": "--core-spec",
    "t": "--time", "v": "--verbose", "V": "--version", "w": "--nodelist", "x": "--exclude",
}  # fmt: skip
_SLURM_FACTS = _names("nodes ntasks ntasks-per-node gpus gpus-per-node gpus-per-task gres")
_SLURM_ALIASES = {"--tasks-per-node": "--ntasks-per-node"}

SBATCH = Grammar(
    valued=_SLURM_VALUED | _names("array gid uid nodefile begin wait-all-nodes"),
    switches=(_SLURM_SWITCHES - _names("wait-all-nodes"))
    | _names("ignore-pbs no-requeue requeue parsable wait kill-on-invalid-dep"),
    optional=_SLURM_OPTIONAL | _names("export get-user-env wrap kill-on-invalid-dep"),
    short={**_SLURM_SHORT, "a": "--array", "F": "--nodefile", "W": "--wait"},
    aliases=_SLURM_ALIASES,
    facts=_SLURM_FACTS,
)
SRUN = Grammar(
    valued=_SLURM_VALUED
    | _names(
        "bcast-exclude epilog prolog export het-group jobid mpi relative slurmd-debug task-epilog "
        "task-prolog threads wait treewidth"
    ),
    switches=_SLURM_SWITCHES
    | _names(
        "preserve-env label multi-prog overlap pty quit-on-interrupt unbuffered disable-status no-allocate "
        "exact interactive whole external"
    ),
    optional=_SLURM_OPTIONAL | _names("immediate kill-on-bad-exit resv-ports send-libs compress bcast"),
    short={
        **_SLURM_SHORT, "E": "--preserve-env", "I": "--immediate", "K": "--kill-on-bad-exit", "l": "--label",
        "r": "--relative", "T": "--threads", "u": "--unbuffered", "W": "--wait", "X": "--disable-status",
        "Z": "--no-allocate",
    },
    aliases=_SLURM_ALIASES,
    facts=_SLURM_FACTS,
)  # fmt: skip
DEEPSPEED = Grammar(
    valued=_names(
        "hostfile include exclude num_nodes num_gpus master_port master_addr node_rank launcher "
        "launcher_args enable_each_rank_log autotuning bind_core_list ssh_port venv_script log_level"
    ),
    switches=_names(
        "help module no_python no_local_rank no_ssh no_ssh_check force_multi save_pid bind_cores_to_rank "
        "quiet"
    ),
    short={"H": "--hostfile", "i": "--include", "e": "--exclude", "q": "--quiet", "h": "--help"},
    aliases={"--num_accelerators": "--num_gpus"},
    facts=_names("hostfile include exclude num_nodes num_gpus node_rank no_ssh"),
)
TORCHRUN = Grammar(
    valued=_names(
        "nnodes nproc_per_node rdzv_backend rdzv_endpoint rdzv_id rdzv_conf max_restarts monitor_interval "
        "start_method event_log_handler role log_dir redirects tee local_ranks_filter "
        "duplicate_stdout_filters duplicate_stderr_filters node_rank master_addr master_port local_addr "
        "logs_specs numa_binding signals_to_handle shutdown_timeout"
    ),
    switches=_names("help standalone module no_python run_path virtual_local_rank use_env"),
    short={"r": "--redirects", "t": "--tee", "m": "--module", "h": "--help"},
    alike=True,
    facts=_names("nnodes nproc_per_node rdzv_endpoint node_rank master_addr"),
)
ACCELERATE = Grammar(
    valued=_names(
        "config_file mixed_precision num_processes num_machines num_cpu_threads_per_process dynamo_backend "
        "dynamo_mode gpu_ids machine_rank main_process_ip main_process_port tee log_dir role rdzv_backend "
        "rdzv_conf max_restarts monitor_interval vm env main_training_function deepspeed_config_file "
        "zero_stage offload_optimizer_device offload_param_device offload_optimizer_nvme_path "
        "offload_param_nvme_path gradient_accumulation_steps gradient_clipping zero3_init_flag "
        "zero3_save_16bit_model deepspeed_hostfile deepspeed_exclusion_filter deepspeed_inclusion_filter "
        "deepspeed_multinode_launcher deepspeed_moe_layer_cls_names aws_access_key_id aws_secret_access_key "
        "mpirun_hostfile"
    ),
    switches=_names(
        "help quiet cpu multi_gpu tpu enable_cpu_affinity dynamo_use_fullgraph dynamo_use_dynamic "
        "dynamo_use_regional_compilation use_deepspeed use_fsdp use_parallelism_config use_megatron_lm "
        "same_network module no_python tpu_cluster no_tpu_cluster tpu_use_sudo downcast_bf16 "
        "fp8_use_autocast_during_eval debug"
    ),
    short={"t": "--tee", "m": "--module", "q": "--quiet", "h": "--help"},
    prefixes=False,
    alike=True,
    families=("--fsdp_", "--megatron_lm_", "--fp8_", "--parallelism_config_"),
    facts=_names(
        "num_processes num_machines mixed_precision gradient_accumulation_steps gradient_clipping zero_stage "
        "use_deepspeed deepspeed_config_file config_file main_process_ip machine_rank multi_gpu"
    ),
)
PYTHON = Grammar(
    valued=_names("check-hash-based-pycs warnings implementation command module"),
    switches=_names("help version help-all help-env help-xoptions plain"),
    short={
        **{"W": "--warnings", "X": "--implementation", "c": "--command", "m": "--module"},
        **dict.fromkeys("bBdEhiIOPqsSuvVx", "--plain"),
    },
    prefixes=False,
)
LAUNCHERS: Mapping[LayerKind, Grammar] = {
    "srun": SRUN,
    "deepspeed": DEEPSPEED,
    "torchrun": TORCHRUN,
    "accelerate": ACCELERATE,
}


MOST_OPTIONS = 500


@dataclass(frozen=True)
class Parsed:
    """What `parse` found. rest: the words behind the options; is_complete: no word hides further options."""

    options: tuple[Option, ...]
    unknown: tuple[Option, ...]
    rest: tuple[OffsetText, ...]
    is_complete: bool


def place_of(source: Source, offset_text: OffsetText) -> Place:
    """Where the characters of a word are written: its last unbroken stretch, or the word on the command."""
    offsets = offset_text.offsets
    if not offsets or UNKNOWN in offset_text.text:
        return source.place(offset_text.start, offset_text.end)
    first = len(offsets) - 1
    while first and offsets[first - 1] == offsets[first] - 1:
        first -= 1
    return source.place(offsets[first], offsets[-1] + 1)


def argument(source: Source, offset_text: OffsetText) -> Argument:
    """A word with its place."""
    return Argument(offset_text.text, place_of(source, offset_text), offset_text.is_default)


def parse(source: Source, words: Sequence[OffsetText], grammar: Grammar) -> Parsed:
    """Options up to the first other word."""
    options: list[Option] = []
    unknown: list[Option] = []
    is_complete, at = True, 0
    while at < len(words):
        word = words[at]
        if len(options) + len(unknown) > MOST_OPTIONS:
            is_complete = False
            break
        if word.is_open:
            is_complete = False
            at += 1
            continue
        if not word.text.startswith("-") or word.text == "-":
            break
        if word.text == "--":
            at += 1
            break
        following = words[at + 1] if at + 1 < len(words) else None
        taken, found, is_known = _option(source, word, following, grammar)
        (options if is_known else unknown).extend(found)
        at += taken
        if grammar is PYTHON and any(option.name in ("--module", "--command") for option in found):
            break
    return Parsed(tuple(options), tuple(unknown), tuple(words[at:]), is_complete)


def _option(
    source: Source, word: OffsetText, following: OffsetText | None, grammar: Grammar
) -> tuple[int, list[Option], bool]:
    """One word that begins with `-`: words taken, options, whether the grammar knows them."""
    if not word.text.startswith("--"):
        return _offset_text(source, word, following, grammar)
    written, equals, _ = word.text.partition("=")
    behind = word.after(len(written) + 1) if equals else None
    name = grammar.find(written)
    if name is None:
        near = grammar.nearest(written)
        taken = 2 if near and not equals and grammar.takes_value(near) else 1
        return taken, [_made(source, written, word, behind, written, equals)], False
    if equals:
        return 1, [_made(source, name, word, behind, written, equals)], True
    if grammar.takes_value(name) and following is not None:
        return 2, [_made(source, name, word, following, written, " ")], True
    return 1, [_made(source, name, word, None, written)], True


def _offset_text(
    source: Source, word: OffsetText, following: OffsetText | None, grammar: Grammar
) -> tuple[int, list[Option], bool]:
    """`-N2`, `-N 2`, `-lN 2`."""
    options: list[Option] = []
    for position, letter in enumerate(word.text[1:], 1):
        name = grammar.short.get(letter)
        if name is None:
            return 1, [*options, _made(source, word.text, word, None, word.text)], bool(options)
        if grammar.takes_value(name):
            behind = word.after(position + 1) if position + 1 < len(word.text) else None
            made = _made(source, name, word, behind or following, f"-{letter}", "" if behind else " ")
            return 1 if behind else 2, [*options, made], True
        options.append(_made(source, name, word, None, f"-{letter}"))
        if name in grammar.optional:
            break
    return 1, options, True


def _made(
    source: Source, name: str, word: OffsetText, value: OffsetText | None, written: str, joint: str = ""
) -> Option:
    at = place_of(source, word.first(len(written)))
    if value is None:
        return Option(name, None, at, at, written, word.is_default)
    known = None if UNKNOWN in value.text else value.text
    shown = "..." if known is None else known.strip()
    words = f"{written}{joint}{shown}"
    return Option(name, known, place_of(source, value), at, words, value.is_default, value.text)
