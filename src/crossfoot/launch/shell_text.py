"""Words as shell text, so that every shell on the way reads back exactly what was meant."""

from __future__ import annotations

import re
from collections.abc import Sequence

from crossfoot.shell_words import quoted

WHICH_NODE = "node=${1:?say which host this is: 0 for the first, 1 for the second}"
"""The first line of a script that is run on every machine with a number of its own."""

_NEW_LINES = re.compile(r"[\x00-\x1f\x7f]")


class Raw(str):
    """Shell text that is written as it is, such as `"$node"`."""

    __slots__ = ()


def command_text(*groups: Sequence[str]) -> str:
    """One command. Each group of words stands on a line of its own; empty groups are left out."""
    lines = (" ".join(_written(word) for word in group) for group in groups if group)
    return " \\\n  ".join(lines)


def comment(text: str) -> str:
    """A comment line. What would end the line is shown as `?`."""
    return "# " + _NEW_LINES.sub("?", text)


def export(name: str, value: str) -> str:
    """`export NAME=value`."""
    return f"export {name}={quoted(value)}"


def directive(option: str, value: str | int = "") -> str:
    """`#SBATCH --nodes=2`. sbatch reads quotes and backslashes there as a shell does, and no variables."""
    text = _NEW_LINES.sub("?", str(value))
    if re.search(r"""[\s"'\\#]""", text):
        text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"#SBATCH {option}={text}" if text else f"#SBATCH {option}"


def word_over_ssh(word: str) -> str:
    """A word of the script's own that `deepspeed` hands to other hosts over pdsh.

    A shell on each of them reads the words once more. Words with a blank are put into double quotes by
    deepspeed 0.19 (launcher/multinode_runner.py, `parse_user_args`), which escapes nothing but `"`; others
    are handed on as they are. pdsh takes `%` for a placeholder. `over_ssh` (written/launch/command_line.py)
    is the reverse.
    """
    word = word.replace("%", "%%")
    return re.sub(r"([\\$`])", r"\\\1", word) if " " in word else quoted(word)


def _written(word: str) -> str:
    return word if isinstance(word, Raw) else quoted(word)
