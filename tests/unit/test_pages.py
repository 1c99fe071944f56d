"""The follower of docs/'s pages must itself be able to fail: wrong output, wrong codes, wrong pages."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.launching import ROOT
from support.pages import Command, Console, File, WrongPage, follow_page, missing_line, read_page

PAGE = """\
# A page

```sh
make everything
```

```text words.txt
one
two
```

```console
$ cat words.txt \\
    words.txt
one
...
two
$ echo "took 12 s"
took ... s
```

<!-- test: exits 3; cut node2 at step 5 of runs/it -->
```console
$ echo no && exit 3
no
```
"""
CLUSTER_PAGES = ("slurm.md", "hostfile.md", "by-hand.md")


def in_a_shell(folder: Path, block: Console) -> Mapping[Command, tuple[int, str]]:
    came = {}
    for command in block.commands:
        done = subprocess.run(
            ["bash", "-c", command.words], cwd=folder, capture_output=True, text=True, check=False
        )
        came[command] = (done.returncode, done.stdout)
    return came


def follow(folder: Path, text: str) -> None:
    page = folder / "page.md"
    page.write_text(text)
    follow_page(page, folder, lambda block: in_a_shell(folder, block))


def test_a_true_page_is_followed(tmp_path: Path) -> None:
    follow(tmp_path, PAGE)
    assert (tmp_path / "words.txt").read_text() == "one\ntwo\n"


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    (
        ("took ... s", "took ... min", "this line does not come, or not here:\ntook ... min"),
        ("\none\n...\ntwo\n$", "\ntwo\n...\ntwo\none\none\n$", "not here:\none"),
        ("\none\ntwo\n```\n", "\none\n```\n", "not here:\ntwo"),
        ("exits 3", "exits 2", "ended with 3, not 2"),
        ("exit 3", "exit 0", "ended with 0, not 3"),
        ("cat words.txt", "cat word.txt", "ended with 1, not 0"),
    ),
)
def test_a_page_that_is_wrong_fails(tmp_path: Path, right: str, wrong: str, said: str) -> None:
    assert PAGE.count(right) == 1
    with pytest.raises(WrongPage) as failed:
        follow(tmp_path, PAGE.replace(right, wrong))
    assert said in str(failed.value)
    assert str(failed.value).startswith("page.md:")


def test_what_is_read() -> None:
    written, first, second = read_page(PAGE)
    assert written == File(7, "words.txt", "one\ntwo\n")
    assert isinstance(first, Console) and isinstance(second, Console)
    assert [(one.machine, one.words, one.expected) for one in first.commands] == [
        ("head", "cat words.txt words.txt", ("one", "two")),
        ("head", 'echo "took 12 s"', ("took ... s",)),
    ]
    assert (first.exits, second.exits, first.directions) == (0, 3, ())
    cable = second.directions[1]
    assert (cable["verb"], cable["node"], cable["at_step"], cable["at_run"]) == (
        "cut",
        "node2",
        "5",
        "runs/it",
    )


def test_commands_on_different_machines_are_typed_together() -> None:
    (block,) = read_page("```console\nnode1$ a\nb\nnode2$ c\n```\n")
    assert isinstance(block, Console) and block.together
    assert [(one.machine, one.words, one.expected) for one in block.commands] == [
        ("node1", "a", ("b",)),
        ("node2", "c", ()),
    ]
    (alone,) = read_page("```console\nnode1$ a\nnode1$ c\n```\n")
    assert isinstance(alone, Console) and not alone.together


@pytest.mark.parametrize(
    ("text", "said"),
    (
        ("```console\nls\n```\n", "line 2: a command begins with"),
        ("```console\n```\n", "without a command"),
        ("```console\n$ a\n", "line 1: this block has no end"),
        ("```console\nnode1$ a\nnode2$ b\nnode1$ c\n```\n", "one command for each"),
        ("```bash\nls\n```\n", "neither a file, nor console, nor sh"),
        ("```\nls\n```\n", "a block of no known kind"),
        ("<!-- test: hope -->\n```console\n$ a\n```\n", "line 1: not a direction for the test: hope"),
        ("<!-- test: exits 1 -->\n```sh\na\n```\n", "directions belong to a console block"),
        ("<!-- test: exits 1 -->\n", "directions without a block"),
    ),
)
def test_a_page_that_cannot_be_followed_is_refused(text: str, said: str) -> None:
    with pytest.raises(WrongPage) as failed:
        read_page(text)
    assert said in str(failed.value)


def test_dots_are_no_pattern_and_lines_come_whole() -> None:
    assert missing_line(("a ... c",), "a b c\n") is None
    assert missing_line(("a.c",), "abc\n") == "a.c"
    assert missing_line(("a",), "a b\n") == "a"
    assert missing_line(("a ...",), "b a c\n") == "a ..."


@pytest.mark.parametrize("name", CLUSTER_PAGES)
def test_every_cluster_page_can_be_followed_and_leads_to_a_receipt(name: str) -> None:
    steps = read_page((ROOT / "docs" / name).read_text(encoding="utf-8"))
    commands = [command for step in steps if isinstance(step, Console) for command in step.commands]
    assert all(command.expected or command.words.startswith("scancel ") for command in commands)
    assert any("foots: yes" in command.expected for command in commands)
    for other in (*CLUSTER_PAGES, "README.md"):
        text = (ROOT / other if other == "README.md" else ROOT / "docs" / other).read_text(encoding="utf-8")
        assert other == name or f"{name})" in text, f"{other} has no link to {name}"
