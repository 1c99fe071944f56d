"""Start crossfoot from a folder of its own: through the real launchers, as a user does (`start`,
`deepspeed`), or, where a test is about what a run does and not about how it was started, from a python that
has done the imports (`plain`, `warm_ranks`).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

from crossfoot.data.tiny_tokenizer import write_tiny_tokenizer
from index_cases import alpaca2
from support import warm

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(sys.executable).parent
PYTHON_PATH = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
TIMEOUT_SECONDS = 1_200

WORDS = ["red", "blue", "green", "seven", "eight", "nine", "river", *"山水月花鸟天地人"]


def write_samples(path: Path, count: int, seed: int = 0, longest: int = 12) -> Path:
    """A small instruction set with varied lengths, no two samples alike."""
    draw = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            question = " ".join(draw.choices(WORDS, k=draw.randint(1, longest // 2)))
            answer = " ".join(draw.choices(WORDS, k=draw.randint(1, longest)))
            line = {"instruction": f"{number} {question}", "input": "", "output": answer}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return path


def small_config(folder: Path, **sections: Mapping[str, Any] | str | None) -> Path:
    """A run config for tests (JSON is YAML); a section given as None is left out."""
    data = folder / "data.jsonl"
    if not data.exists():
        write_samples(data, 40)
    config: dict[str, Any] = {
        "run": {"name": "small", "dir": str(folder / "run"), "seed": 7},
        "model": {"path": "builtin:tiny", "dtype": "float32", "matmul": "highest"},
        "data": {"train": [str(data)], "max_seq_len": 256, "index_dir": str(folder / "index")},
        "batch": {"micro_batch_size": 2, "global_batch_size": 7},
        "lr": {"reference": 1e-3, "warmup_steps": 2},
        "lora": {"r": 4, "alpha": 8, "modules_to_save": ["embed_tokens", "lm_head"]},
        "deepspeed": str(ROOT / "ds_configs" / "zero2.json"),
        "train": {"max_steps": 4},
    }
    for name, section in sections.items():
        if section is None:
            config.pop(name, None)
        elif isinstance(section, Mapping):
            config[name] = {**config.get(name, {}), **section}
        else:
            config[name] = section
    path = folder / "config.yaml"
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
    return path


def without_runs(folder: Path) -> Path:
    """This clone as one in which nothing was trained yet: links to all that is in it but runs/."""
    clone = folder / "clone"
    clone.mkdir()
    for path in ROOT.iterdir():
        if path.name != "runs":
            (clone / path.name).symlink_to(path)
    if (shared := ROOT.parent / "shared").exists():
        (folder / "shared").symlink_to(shared)
    return clone


def folded_config(folder: Path, **sections: dict[str, Any] | None) -> Path:
    """A small config of an uneven batch on two ranks, which one process folds."""
    return small_config(
        folder,
        tokenizer={"path": str(short_tokenizer(folder))},
        deepspeed=None,
        cluster={"num_nodes": 1, "gpus_per_node": 2},
        batch={"micro_batch_size": 2, "grad_accum_steps": 2, "global_batch_size": 7},
        **sections,
    )


def short_tokenizer(folder: Path) -> Path:
    """The built-in tokenizer with the template's words and ours as pieces, so that a sample is some 20 tokens
    long; its vocabulary is larger than the built-in model's table, which grows.
    """
    from tokenizers import Tokenizer

    source = Path(write_tiny_tokenizer(str(folder / "index")))
    target = folder / "short-tokenizer"
    if not target.exists():
        target.mkdir()
        tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
        before, after = alpaca2("|").split("|")
        tokenizer.add_tokens([before, after, *(f"{word} " for word in WORDS), *WORDS])
        tokenizer.save(str(target / "tokenizer.json"))
        shutil.copy(source / "tokenizer_config.json", target)
    return target


AT_START = {name: value for name, value in os.environ.items() if name.startswith(warm.IMPORT_TIME)}
"""What libraries read while they are imported, as it was when the tests began."""


def environment(**more: str) -> dict[str, str]:
    """A launcher's surroundings: CPU, one thread a rank, this interpreter's scripts first, no ranks left
    over, and nothing that a run in this very process has set for its imports.
    """
    leftovers = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", *warm.IMPORT_TIME)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(leftovers)}
    kept.update(
        AT_START,
        PATH=f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
        PYTHONPATH=PYTHON_PATH,
        DS_ACCELERATOR="cpu",
        OMP_NUM_THREADS="1",
        ACCELERATE_USE_CPU="true",
        CUDA_VISIBLE_DEVICES="",
        HF_HUB_OFFLINE="1",
        NO_COLOR="1",
    )
    return kept | more


def free_port() -> int:
    """A TCP port that is free, and that no connection is given in the seconds until it is listened at."""
    draw = random.SystemRandom()
    while True:
        port = draw.randrange(10_000, 32_768)  # Linux gives connections those above
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def start(command: Sequence[str | Path], **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command from the repository's root and wait; past the time limit its whole group is ended."""
    words = [str(word) for word in command]
    with subprocess.Popen(
        words,
        cwd=ROOT,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)


def deepspeed(
    ranks: int, script: str | Path, *words: str | Path, **more: str
) -> subprocess.CompletedProcess[str]:
    """`deepspeed --num_gpus RANKS SCRIPT WORDS`."""
    launcher = [SCRIPTS / "deepspeed", "--num_gpus", str(ranks), "--master_port", str(free_port())]
    return start([*launcher, script, *words], **more)


def together(
    programs: Sequence[tuple[Path, Sequence[str | Path], Mapping[str, str]]],
    timeout: float = TIMEOUT_SECONDS,
    meanwhile: Callable[[Sequence[warm.Running]], object] = lambda running: None,
) -> list[subprocess.CompletedProcess[str]]:
    """Start `python WORDS` for each (folder, words, all its variables) at once, warm where it can be, and
    wait for all; past the time limit (seconds) they are ended. meanwhile: what to do once all are started.
    """
    with ExitStack() as stack:
        streams = [[stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)] for _ in programs]
        running = [
            warm.begin([str(word) for word in words], environ, folder, stdout.fileno(), stderr.fileno())
            for (folder, words, environ), (stdout, stderr) in zip(programs, streams, strict=True)
        ]
        try:
            meanwhile(running)
            codes = [program.wait(timeout) for program in running]
        finally:
            for program in running:
                warm.end(program)
        said = [[_text_of(stream) for stream in both] for both in streams]
    return [
        subprocess.CompletedProcess(words, code, *both)
        for (_, words, _), code, both in zip(programs, codes, said, strict=True)
    ]


def plain(*words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """`python SCRIPT WORDS` or `python -m MODULE WORDS`."""
    return together([(ROOT, words, environment(**more))])[0]


def warm_ranks(
    count: int, script: str | Path, *words: str | Path, **more: str
) -> subprocess.CompletedProcess[str]:
    """The ranks that `deepspeed --num_gpus COUNT SCRIPT WORDS` starts, without the launcher: with the same
    variables, and the first that fails ends the others. What all said, and the exit code of that one.
    """
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    place |= {"CROSS_RANK": "0", "CROSS_SIZE": "1", "LOCAL_SIZE": str(count)}
    command = [str(word) for word in (script, *words)]
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        ranks = []
        for rank in range(count):
            environ = environment(**place, RANK=str(rank), LOCAL_RANK=str(rank), **more)
            ranks.append(warm.begin(command, environ, ROOT, stdout.fileno(), stderr.fileno()))
        code = warm.wait_as_one(ranks, TIMEOUT_SECONDS)
        return subprocess.CompletedProcess(command, code, _text_of(stdout), _text_of(stderr))


def _text_of(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode()


def ledger(run_dir: Path) -> list[dict[str, Any]]:
    """The ledger's lines."""
    return [json.loads(line) for line in (run_dir / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]


def receipt(run_dir: Path) -> dict[str, Any]:
    """The receipt's document."""
    document: dict[str, Any] = json.loads((run_dir / "receipt.json").read_text(encoding="utf-8"))
    return document
