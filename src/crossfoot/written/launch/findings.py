"""What is wrong with a launch file before anything in it means something (CF450, CF451)."""

from __future__ import annotations

from crossfoot.findings.finding import Finding, Place
from crossfoot.findings.rule_docs import rule_docs
from crossfoot.written.source import UnreadableText
from crossfoot.written.yaml_tree import BrokenYaml


@rule_docs("CF450")
def unreadable_launch_file(error: UnreadableText, named_at: Place | None = None) -> Finding:
    """CF450: a file that the run will be started with cannot be read as text.

    The file is absent, a folder, not an ordinary file, larger than 1 MiB, not UTF-8, or begins with a byte
    order mark (with which `#!` is no longer the beginning, and the kernel does not find the interpreter).
    Launch files are the words without `=` behind the config: a batch script, a shell script, a hostfile or an
    accelerate file.
    """
    others = ((named_at, "named here"),) if named_at else ()
    return Finding("CF450", error.title, place=error.place, others=others, helps=error.helps, unreadable=True)


@rule_docs("CF451")
def broken_accelerate_file(error: BrokenYaml) -> Finding:
    """CF451: accelerate's config file is not YAML.

    `accelerate launch` would stop while reading it. `accelerate config` writes a fresh one.
    """
    return Finding(
        "CF451",
        f"accelerate's file cannot be read: {error.title}",
        place=error.place,
        notes=error.notes,
        helps=error.helps or ("repair the YAML, or write the file anew with accelerate config",),
        unreadable=True,
    )
