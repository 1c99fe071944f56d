"""What is said about many keys at once, and about another trainer's file: CF032, CF033 and CF059."""

from __future__ import annotations

from collections.abc import Sequence

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.phrases import listed
from crossfoot.shell_words import quoted_path
from crossfoot.written.known_keys import Suggestion

_MOST_PLACES = 3


@rule_docs("CF032", name="keys-of-another-section")
def moved_keys(written_in: str, places: Sequence[Place], keys: Sequence[tuple[str, Suggestion]]) -> Finding:
    """CF032: several keys stand in the wrong section, and belong to one other.

    `max_seq_len` below `train:` is a key that nobody reads: it belongs to `data:`. One that stands wrong
    alone is CF004.
    """
    home = keys[0][1].path.partition(".")[0]
    where = f"stand in {written_in}, and" if written_in else "stand at the top level, and"
    return Finding(
        "CF032",
        f"{listed([name for name, _ in keys])} {where} belong to {home}",
        place=places[0],
        others=tuple((place, "and here") for place in places[1 : 1 + _MOST_PLACES]),
        helps=(f"move them below {home}:",),
    )


@rule_docs("CF033", name="keys-of-another-trainer")
def foreign_keys(written_in: str, places: Sequence[Place], keys: Sequence[tuple[str, Suggestion]]) -> Finding:
    """CF033: several keys are those of another trainer.

    A config of the Hugging Face Trainer, LLaMA-Factory, axolotl or ms-swift is no run config. Most of their
    words have a counterpart here; of the others it is said why there is none. `crossfoot import FILE` makes a
    run config of a whole one.
    """
    sections: dict[str, list[str]] = {}
    told, none = [], []
    for name, meant in keys:
        section, _, key = meant.path.rpartition(".")
        if meant.value is not None and section:
            sections.setdefault(section, []).append(f"{key}: {meant.value}")
        elif meant.path or not meant.note:
            told.append(f"{name}: {meant.help}" + (f" ({meant.note})" if meant.note else ""))
        else:
            none.append(f"{name} has no counterpart: {meant.note}")
    where = f" of {written_in}" if written_in else ""
    helps = [f"below {section}: write {', '.join(pairs)}" for section, pairs in sections.items()]
    return Finding(
        "CF033",
        f"{len(keys)} keys{where} are words of another trainer",
        place=places[0],
        others=tuple((place, "another one") for place in places[1 : 1 + _MOST_PLACES]),
        notes=tuple(none),
        helps=(*helps, *told) or ("remove them",),
    )


@rule_docs("CF059", name="config-is-a-script")
def a_script(path: str) -> Finding:
    """CF059: a shell script is given where a run config belongs.

    `run_sft.sh` says how another trainer is started. `crossfoot import` makes a run config of it.
    """
    return Finding(
        "CF059",
        f"{path} is a shell script, and a run config is YAML",
        place=Place(path),
        helps=(f"make a run config of it: crossfoot import {quoted_path(path)} --out my.yaml",),
        unreadable=True,
    )
