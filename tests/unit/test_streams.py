"""Words decide about nothing: readers that leave or stop, full disks, closed descriptors, narrow encodings;
and what is in them steers no terminal.
"""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crossfoot.findings.finding import Finding
from crossfoot.findings.formats import formatted
from crossfoot.output import json_text, visible, visible_line
from crossfoot.streams import ESCAPED, Channel, Words, open_streams, terminal_of
from support.launching import ROOT, environment, small_config

HOSTILE = "a\x1b[2Jb\x9b31mc\u202ed\u2066e\x07f\rg\x08h\u200bi\udcffj"
SHOWN = "a\ufffd[2Jb\ufffd31mc\ufffdd\ufffde\ufffdf\ufffdg\ufffdh\ufffdi\ufffdj"


def _words(descriptor: int, encoding: str = "utf-8") -> Words:
    open_streams()  # which makes the error handler known
    return Words(io.BufferedWriter(Channel(descriptor, "<test>")), encoding=encoding, errors=ESCAPED)  # type: ignore[type-var]


def _written(text: str, encoding: str = "utf-8") -> bytes:
    reader, writer = os.pipe()
    words = _words(writer, encoding)
    print(text, end="", file=words, flush=True)
    os.close(writer)
    with open(reader, "rb") as file:
        return file.read()


def test_a_reader_that_leaves_wants_no_more_words() -> None:
    reader, writer = os.pipe()
    words = _words(writer)
    print("heard", file=words, flush=True)
    assert not words.channel().has_left
    os.close(reader)
    assert words.channel().has_left
    print("not heard", file=words, flush=True)
    assert (words.channel().trouble, words.channel().lost_bytes) == (None, 0)
    os.close(writer)


def test_a_disk_that_is_full_loses_words_and_the_log_says_where(tmp_path: Path) -> None:
    full, log = os.open("/dev/full", os.O_WRONLY), os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    target = os.dup(log)
    words = _words(target)
    print("before", file=words, flush=True)
    os.dup2(full, target)
    print("lost", file=words, flush=True)
    os.dup2(log, target)
    print("after", file=words, flush=True)
    for descriptor in (full, log, target):
        os.close(descriptor)
    trouble = words.channel().trouble
    assert trouble is not None and trouble.strerror == "No space left on device"
    assert (tmp_path / "log").read_text() == "before\n\n[crossfoot: 5 bytes are missing here]\nafter\n"


@pytest.mark.parametrize("make", [os.pipe, pty.openpty])
def test_a_reader_that_stops_is_not_waited_for_for_ever(make: Callable[[], tuple[int, int]]) -> None:
    reader, writer = make()
    words = _words(writer)
    words.channel().do_not_wait(0.01)
    for _ in range(300):
        print("x" * 1_000, file=words, flush=True)
    lost = words.channel().lost_bytes
    assert lost > 100_000 and words.channel().trouble is None
    os.set_blocking(reader, False)
    heard = b""
    for _ in range(1_000):
        try:
            heard += os.read(reader, 65_536)
        except BlockingIOError:
            print("again", file=words, flush=True)
            if b"again" in heard:
                break
    assert b"bytes are missing here]" in heard
    os.close(reader)
    os.close(writer)


def test_a_pipe_that_somebody_made_non_blocking_loses_nothing() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    command = [sys.executable, "-c", "import sys, time; time.sleep(0.2); print(len(sys.stdin.read()))"]
    with subprocess.Popen(command, stdin=reader, stdout=subprocess.PIPE, text=True) as process:
        os.close(reader)
        words = _words(writer)
        print("x" * 300_000, end="", file=words, flush=True)
        os.close(writer)
        assert process.stdout is not None and process.stdout.read() == "300000\n"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "数 é 😀".encode()),
        ("gbk", "数 é \\ud83d\\ude00".encode("gbk")),
        ("latin-1", "\\u6570 é \\ud83d\\ude00".encode("latin-1")),
        ("ascii", b"\\u6570 \\u00e9 \\ud83d\\ude00"),
    ],
)
def test_what_an_encoding_lacks_is_escaped_as_json_does(encoding: str, expected: bytes) -> None:
    assert _written("数 é 😀", encoding) == expected
    assert json.loads(_written(json_text(["数 é 😀"]), encoding).decode(encoding)) == ["数 é 😀"]


def test_everything_that_a_library_prints_is_cleaned_but_for_colours() -> None:
    """Tracebacks, logs, usage lines: they go through the stream and not through `say`."""
    assert _written("\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[2J \x9b2J \u202e").decode() == (
        "\x1b[31mred\x1b[0m \ufffd]0;title\ufffd \ufffd[2J \ufffd2J \ufffd"
    )
    reader, writer = os.pipe()
    words = _words(writer)
    print("\x1b[2J", end="", file=terminal_of(words), flush=True)
    assert os.read(reader, 10) == b"\x1b[2J"  # what draws on a terminal
    os.close(reader)
    os.close(writer)


def test_text_of_others_is_made_visible() -> None:
    assert visible(HOSTILE) == SHOWN
    assert visible("tab\tand\nline\u3000\u00a0数据 é") == "tab\tand\nline\u3000\u00a0数据 é"
    assert visible_line("a\nb\tc") == "a\ufffdb\ufffdc"
    assert json_text({"name": HOSTILE}).isascii()
    assert json.loads(json_text({"name": HOSTILE})) == {"name": HOSTILE}


@pytest.mark.parametrize("style", ["text", "concise", "github", "json"])
def test_findings_show_it_in_every_format(style: str) -> None:
    text = formatted([Finding("CF015", HOSTILE, notes=(HOSTILE,), helps=(HOSTILE,), label=HOSTILE)], style)
    assert not any(sign in text for sign in "\x1b\x9b\u202e\u2066\x07\r\x08\u200b\udcff")


# --- the verbs

VERBS = {
    "check": (["check", "{config}", "batch.grad_accum_steps=9"], 1),
    "check as json": (["check", "{config}", "--format", "json"], 0),
    "plan": (["plan", "{config}"], 0),
    "index": (["index", "{config}"], 0),
    "all pages": (["explain", "--all"], 0),
    "launch": (["launch", "{config}", "--to", "torchrun", "--print"], 0),
    "receipt": (["receipt", "{config}.missing"], 2),
}
ANSWERS = ("check as json", "plan", "all pages", "launch")
"""What makes nothing but words, and whose code says nothing else."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("数据")
    return small_config(folder, run={"name": "名字"}, cluster={"num_nodes": 1, "gpus_per_node": 2})


def _run(
    config: Path, verb: str, redirection: str = "", **variables: str
) -> subprocess.CompletedProcess[bytes]:
    words = [word.format(config=config) for word in VERBS[verb][0]]
    command = ["bash", "-c", f'"$@" {redirection}', "bash", sys.executable, "-m", "crossfoot", *words]
    return subprocess.run(command, cwd=ROOT, env=environment(**variables), capture_output=True, check=False)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_keeps_its_code_whoever_reads(config: Path, verb: str) -> None:
    code = VERBS[verb][1]
    for redirection in ("2>&1 | true; exit ${PIPESTATUS[0]}", "<&- >&- 2>&-"):
        done = _run(config, verb, redirection)
        assert done.returncode == code, (redirection, done)
        assert b"Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_behind_stdout_is_said_and_fails_only_what_makes_nothing_but_words(
    config: Path, verb: str
) -> None:
    done = _run(config, verb, "> /dev/full")
    assert done.returncode == (1 if verb in ANSWERS else VERBS[verb][1]), done
    assert b"Traceback" not in done.stderr
    assert b"CF015" in done.stderr and b"no space left on device" in done.stderr


@pytest.mark.parametrize(
    ("verb", "encoding"), list(zip(VERBS, 3 * ["ascii", "gbk", "latin-1"], strict=False))
)
def test_a_verb_speaks_in_every_encoding(config: Path, verb: str, encoding: str) -> None:
    done = _run(config, verb, PYTHONIOENCODING=encoding)
    assert done.returncode == VERBS[verb][1], done
    assert b"Traceback" not in done.stderr
    assert "数" not in done.stdout.decode(encoding) or encoding == "gbk"


def test_a_locale_that_cannot_spell_a_file_is_said(config: Path) -> None:
    done = _run(config, "check", LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (2, b"") and b"CF021" in done.stdout, done


def test_a_descriptor_that_was_closed_is_not_given_to_a_file(tmp_path: Path) -> None:
    program = (
        "from crossfoot.streams import open_streams; open_streams(); import os, sys\n"
        f"file = open({str(tmp_path / 'first')!r}, 'w')\n"
        "os.write(1, b'a library'); os.write(2, b'speaks'); print('so'); print('too', file=sys.stderr)\n"
        "assert file.fileno() > 2 and sys.stdin.read() == ''\n"
    )
    command = ["bash", "-c", '"$@" <&- >&- 2>&-', "bash", sys.executable, "-c", program]
    done = subprocess.run(command, env=environment(), capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (tmp_path / "first").read_bytes() == b""
