"""Damaged launch files: never an exception, every place inside. And the shell reader against bash."""

from __future__ import annotations

import dataclasses
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossfoot.checks.rules import Facts, run_static_rules
from crossfoot.findings.finding import LINE_BREAK, Place
from crossfoot.written.launch.read import read_job, read_launch_file
from crossfoot.written.launch.shell import run_script
from crossfoot.written.launch.statement import UNKNOWN
from crossfoot.written.run_file import load_run
from launch_scripts import ACCELERATE_FILE, CONFIG, HOSTFILE, MATCHING

PIECES = [
    *"\"'`$(){}[]<>|&;#\\\n\t\r =:,@-*",
    *("${", "$((", "<<EOF\n", "EOF\n", "#SBATCH ", "slots=", "--nodes", "=99999999999", "\0", "\ufeff", "中"),
    *(
        "if ",
        "fi\n",
        "do ",
        "done\n",
        "case x in\n",
        "esac\n",
        '"$@"',
        "${a[@]}",
        "A=$A$A\n",
        "num_processes: ",
    ),
    *(
        "srun ",
        'bash -c "',
        "torchrun ",
        "deepspeed ",
        "accelerate launch ",
        "python -m ",
        "export ",
        " train.py ",
    ),
]


def damaged(draw: random.Random, text: str) -> bytes:
    for _ in range(draw.randint(1, 6)):
        at = draw.randint(0, len(text))
        kind = draw.random()
        if kind < 0.6:
            piece = draw.choice(PIECES) * draw.choice([1, 1, 1, 2, 40])
            text = text[:at] + piece + text[at + draw.randint(0, 8) :]
        elif kind < 0.8:
            other = draw.randint(0, len(text))
            text = text[:at] + text[other : other + draw.randint(0, 60)] + text[at:]
        else:
            text = text[:at] + text[at + draw.randint(0, 200) :]
    raw = text.encode("utf-8", "surrogatepass")
    return raw if draw.random() > 0.03 else raw + b"\xc8"


def places(thing: object) -> Iterator[Place]:
    if isinstance(thing, Place):
        yield thing
    elif dataclasses.is_dataclass(thing):
        for field in dataclasses.fields(thing):
            yield from places(getattr(thing, field.name))
    elif isinstance(thing, (tuple, list)):
        for each in thing:
            yield from places(each)


def judge(raw: bytes, run) -> None:
    Path("launch").write_bytes(raw)
    file, findings = read_launch_file("launch")
    found = [*findings, *(run_static_rules(Facts(run, launch=(file,))) if file else ())]
    lines = LINE_BREAK.split(raw.decode("utf-8", "replace"))
    for place in (*places(file), *places(found)):
        if place.file == "launch" and place.line:
            assert place.line <= len(lines), place
            assert place.column <= len(lines[place.line - 1]) + 1, place


def mutate(seed: int, count: int) -> None:
    draw = random.Random(seed)
    texts = [*MATCHING.values(), ACCELERATE_FILE, HOSTFILE]
    Path("config.yaml").write_text(CONFIG)
    Path("hosts").write_text(HOSTFILE)
    run = load_run("config.yaml")
    for _ in range(count):
        judge(damaged(draw, draw.choice(texts)), run)


def test_a_damaged_launch_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mutate(1, 400)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 7))
def test_many_damaged_launch_files(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mutate(seed, 2000)


@pytest.mark.parametrize("text", ["", "0", "-1", "two", "1" * 400, "٣", "8(x2)", "a100:8", "gpu:", " 8 "])
def test_odd_variables_of_a_job(text: str) -> None:
    names = (
        "SLURM_JOB_ID",
        "SLURM_JOB_NUM_NODES",
        "SLURM_NNODES",
        "SLURM_GPUS_PER_NODE",
        "SLURM_GPUS_ON_NODE",
    )
    for name in names:
        read_job({"SLURM_JOB_ID": "1", name: text})
        read_job(dict.fromkeys(names, text))


# ---- the shell reader against bash -------------------------------------------------------------------------

NAMES = ("A", "B", "C")
PLAIN = ("8", "--num_gpus", "x=1", "a.b", "node-1:0,1", "%", "+")


class Scripts:
    """Random scripts of what launch scripts are made of. Every command has its own first word."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.count = 0

    def piece(self) -> str:
        draw = self.draw
        name = draw.choice(NAMES)
        return draw.choice(
            [
                *PLAIN,
                f"${name}",
                f"${{{name}}}",
                f"${{{name}:-{draw.choice(PLAIN)}}}",
                f"${{{name}-{draw.choice(PLAIN)}}}",
                f"${{{name}:-${draw.choice(NAMES)}}}",
                f'"${name} {draw.choice(PLAIN)}"',
                f'"\\${name} \\" {draw.choice(PLAIN)}"',
                f"'{draw.choice(PLAIN)} ${name} \\'",
                "\\ ",
                "\\$",
                '""',
                "''",
                "\\\n",
                '"a\\\nb"',
                "${L[@]}",
                '"${L[@]}"',
                "x#y",
            ]
        )

    def word(self) -> str:
        return "".join(self.piece() for _ in range(self.draw.randint(1, 3)))

    def value(self) -> str:
        """Of an assignment: the grammar goes on behind one that is nothing but an escaped blank or break."""
        word = self.word()
        return word if word.strip("\\ \n") else "''"

    def words(self) -> str:
        return self.draw.choice([" ", "  ", " \\\n  "]).join(
            self.word() for _ in range(self.draw.randint(1, 4))
        )

    def command(self) -> str:
        self.count += 1
        end = self.draw.choice(
            ["", "", " # a comment 'with quotes", " 2>/dev/null", " < /dev/null", " | cat", " &"]
        )
        wait = "\nwait" if end == " &" else ""
        return f"deepspeed id{self.count} {self.words()}{end}{wait}"

    def line(self) -> str:
        draw = self.draw
        name = draw.choice(NAMES)
        return draw.choice(
            [
                self.command,
                self.command,
                lambda: f"{name}={self.value()}",
                lambda: f"{name}={draw.choice(PLAIN)} Z={draw.choice(PLAIN)}",
                lambda: f"({name}={draw.choice(PLAIN)}; {self.command()}\n)",
                lambda: f"run() {{ {name}=$1; {self.command()}\n}}\nrun {draw.choice(PLAIN)}",
                lambda: f"for {name} in 3 {draw.choice(PLAIN)}; do {self.command()}\ndone",
                lambda: f'if [ "${name}" = 8 ]; then {self.command()}\nelse {self.command()}\nfi',
                lambda: f"{name}=$((3 * 4 - 1))",
                lambda: f"false || {{ {self.command()}\n}}",
                lambda: f"eval '{name}={draw.choice(PLAIN)}'",
                lambda: f"export {name}={draw.choice(PLAIN)}",
                lambda: f"{name}+={self.value()}",
                lambda: f"{name}={draw.choice(PLAIN)} {self.command()}",
                lambda: f"L=({self.words()})",
                lambda: f'if [ -n "${name}" ]; then {name}={draw.choice(PLAIN)}; fi',
                lambda: f"for {name} in 1 2; do :; done",
                lambda: f"[ x = y ] || {name}=5",
                lambda: f"{{ {self.command()}\n}}",
                lambda: f"({self.command()}\n)",
                lambda: f"true && {self.command()}",
                lambda: "cat > /dev/null <<EOF\ndeepspeed idh 'no\nEOF",
                lambda: f"{name}=$(echo hidden)",
                lambda: f"case ${name} in\n  8) {name}=9;;\n  *) :;;\nesac",
                lambda: (
                    f"bash -c ': {draw.choice(PLAIN)}; deepspeed id{self.next()} $A ${{B:-7}}' 2>/dev/null"
                ),
            ]
        )()

    def next(self) -> int:
        self.count += 1
        return self.count

    def script(self) -> str:
        first = [f"{name}={self.draw.choice(PLAIN)}" for name in NAMES]
        words = self.draw.choice(["p 'q r'", "'q r' p s", "'q r'"])
        return (
            "\n".join([*first, f"L=({words})", *(self.line() for _ in range(self.draw.randint(2, 8)))]) + "\n"
        )


STUB = """deepspeed() { local w; for w in "$@"; do printf "%s\\t" "$w"; done; printf "\\f"; }
export -f deepspeed
"""


def read_here(text: str) -> dict[str, tuple[str, ...]]:
    found = {}
    for command in run_script(text, range(len(text)), {}):
        words = tuple(word.text for word in command.words)
        if words[0] == "bash":
            inner = run_script(command.words[2].text, command.words[2].offsets, {}, command.exports)
            nested = [each for each in inner if each.words[0].text == "deepspeed"]
            words = tuple(word.text for word in nested[0].words) if nested else words
        if words[0] == "deepspeed" and not command.doubt:
            found[words[1]] = words[1:]
    return found


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_commands_are_expanded_as_bash_does(tmp_path: Path) -> None:
    compared = unknown = 0
    for seed in range(120):
        text = Scripts(seed).script()
        (tmp_path / "script.sh").write_text(STUB + text)
        ran = subprocess.run(
            ["bash", "script.sh"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            env={"PATH": "/usr/bin:/bin"},
        )
        by_bash = {
            words.split("\t")[0]: tuple(words.split("\t")[:-1])
            for words in ran.stdout.split("\f")
            if words.strip()
        }
        for name, words in read_here(text).items():
            if any(UNKNOWN in word for word in words):
                unknown += 1
                continue
            compared += 1
            assert by_bash.get(name) == words, f"seed {seed}\n{text}{ran.stderr}"
        assert set(by_bash) - {"idh"} >= set(read_here(text)), text
    assert compared > 150
    assert unknown < compared
