"""Reads tests/findings/CFnnn.md: a bad input, the exact text that crossfoot says about it, and the repaired
input.

A case is a Markdown page of fenced blocks; the word after the language is the file's name. `config.yaml` is
the run config, `arguments` (optional) the words after it; the block `text` is what is expected; files below
the heading "Repaired" replace those above.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from crossfoot.findings.finding import Finding
from crossfoot.index.build import ensure_index
from crossfoot.planning.checking import find_all
from crossfoot.written.adapter_folder import ADAPTER_CONFIG, PICKLED
from crossfoot.written.run_file import read_run
from support.model_folders import write_adapter_weights, write_weights

FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class FindingCase:
    """One page. `bad` and `repaired`: file name to content; `expected`: the rendered text."""

    code: str
    bad: dict[str, str]
    repaired: dict[str, str]
    expected: str


def read_case(page: Path) -> FindingCase:
    """A case out of its Markdown page. `\\xNN` in a block named *.raw is a byte."""
    above, _, below = page.read_text(encoding="utf-8").partition("\n## Repaired\n")
    blocks = [(language, name, text) for language, name, text in FENCE.findall(above)]
    bad = {name: text for language, name, text in blocks if language != "text"}
    (expected,) = [text for language, _, text in blocks if language == "text"]
    repaired = {name: text for _, name, text in FENCE.findall(below)}
    return FindingCase(page.stem, bad, {**bad, **repaired}, expected.rstrip("\n"))


def _write_data(folder: Path) -> None:
    """3,000 short records and 8 for validation: steps of 512 or 1,000 samples leave nothing to be said. And
    3,000 that a tokenizer of two letters can say.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, first, last in (("zh.jsonl", 0, 3000), ("validation.jsonl", 3000, 3008)):
        records = [
            {"instruction": f"{number} 加一是多少？", "input": "", "output": f"{number + 1}。"}
            for number in range(first, last)
        ]
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = (" ".join("ab"[int(bit)] for bit in f"{number:b}") for number in range(3000))
    lines = [json.dumps({"instruction": word, "input": "", "output": word}) for word in words]
    (folder / "ab.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_files(folder: Path, files: dict[str, str]) -> list[str]:
    """Write the files of a case, data, and weights beside a config.json or an adapter_config.json; returns
    the words behind.
    """
    _write_data(folder / "data" / "demo")
    for name, text in files.items():
        path = folder / name.removesuffix(".raw")
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".raw"):
            raw = text.rstrip("\n").encode().decode("unicode_escape").encode("latin-1")
            path.write_bytes(raw)
        elif name != "arguments":
            path.write_text(text, encoding="utf-8")
        if path.name == "config.json":
            with suppress(ValueError):
                write_weights(path.parent)
        if path.name == ADAPTER_CONFIG and not (path.parent / PICKLED).exists():
            write_adapter_weights(path.parent)
    return shlex.split(files.get("arguments", ""))


def check_case(words: Sequence[str]) -> tuple[Finding, ...]:
    """`crossfoot check config.yaml WORDS`, outside of any job. A config that says where its index lies has
    one.
    """
    with suppress(ValueError):
        if "\n  index_dir:" in Path("config.yaml").read_text(encoding="utf-8"):
            run, _ = read_run("config.yaml", words)
            ensure_index(run, run.config.data.train, is_builder=True)
    return find_all("config.yaml", words)
