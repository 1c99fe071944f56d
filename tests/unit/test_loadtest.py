"""`crossfoot loadtest` against a server that answers well, badly, or no more: a failed request fails it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from crossfoot.cli import main
from crossfoot.findings.finding import Refused
from crossfoot.serving.asking import ask
from crossfoot.serving.load_page import load_page
from crossfoot.serving.load_result import LoadResult, read_result, stage_of
from crossfoot.serving.loadtest import LoadOptions, loadtest
from crossfoot.serving.resources import ServerProcesses
from support.answering_server import answering

SHORT = ("--users", "2", "--loops", "2", "--ramp-up", "0")


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_user_asks_so_often_and_the_numbers_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    with answering() as server:
        Path("loadtest.html").write_text("mine", encoding="utf-8")
        assert main(["loadtest", server.url, "--users", "1,2", "--loops", "2", "--ramp-up", "0"]) == 0
        assert len(server.bodies) == 1 + 1 * 2 + 2 * 2
        assert {path for path in server.paths} == {"/v1/chat/completions"}
        assert all(body["model"] == "tiny" and body["stream"] is True for body in server.bodies)
        asked = [body["messages"][0]["content"] for body in server.bodies[-4:]]
        assert len(set(asked)) == 4, "no two requests of a stage ask the same while there are questions left"
    assert Path("loadtest.html").read_text(encoding="utf-8") == "mine"
    result = read_result("loadtest-2.json")
    assert result.passed and [(one.users, one.requests, one.failed) for one in result.stages] == [
        (1, 2, 0),
        (2, 4, 0),
    ]
    for stage in result.stages:
        assert 0 < stage.first_token_seconds[0] <= stage.answer_seconds[-1]
        assert stage.tokens_per_second == pytest.approx(5 * stage.requests_per_second, rel=0.01)
    assert "loadtest-2.html: the page" in capsys.readouterr().out and Path("loadtest-2.html").is_file()


def test_one_failed_request_fails_the_test(capsys: pytest.CaptureFixture[str]) -> None:
    with answering("well", "well", "refuses", "well") as server:
        assert main(["loadtest", server.url, *SHORT]) == 1
    result = read_result("loadtest.json")
    assert not result.passed and (result.failed, result.requests) == (1, 4)
    out = capsys.readouterr().out
    assert "CF842" in out and "1 of 4 requests failed" in out and "Unexpected fields" in out
    assert "FAILED, 1 of 4 requests" in Path("loadtest.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("well", "^$"),
        ("done", "^$"),
        ("refuses", "HTTP 422 .*Unexpected fields"),
        ("breaks off", "the answer broke off"),
        ("error", "the server says: out of memory"),
        ("silent", "timed out"),
    ],
)
def test_only_a_whole_answer_is_one(how: str, says: str) -> None:
    with answering(how) as server:
        plan = {"url": f"{server.url}/v1", "model": "tiny", "max_tokens": 4, "timeout_seconds": 0.5}
        seen = ask({**plan, "is_completion": False, "headers": {}}, [{"role": "user", "content": "Hello"}])
    assert re.search(says, seen["error"])
    assert len(seen["arrived"]) == (0 if how in ("refuses", "silent") else 3)


def test_a_server_that_is_gone_in_the_middle_fails_the_test() -> None:
    with answering("well", "well", "silent") as server:

        def go() -> None:
            while len(server.bodies) < 3:
                server.asked.wait(0.05)
            server.socket.close()
            server.closing.set()

        goes = threading.Thread(target=go)
        goes.start()
        code = loadtest(server.url, LoadOptions((2,), 0, 9, timeout=20))
        goes.join()
    result = read_result("loadtest.json")
    assert code == 1 and result.requests == 18 and result.failed == 17
    assert result.why["Connection refused"] >= 1 and sum(result.why.values()) == 17
    assert result.why["never sent: the user had given up, after 5 failures in a row"] == 7
    assert result.reasons[-1].startswith("7 times: never sent") and not result.has_server_ended


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_who_is_interrupted_writes_nothing_and_leaves_no_users(number: signal.Signals) -> None:
    with answering("well", "silent") as server:

        def send() -> None:
            while len(server.bodies) < 3:
                server.asked.wait(0.05)
            os.kill(os.getpid(), number)

        sends = threading.Thread(target=send)
        sends.start()
        assert main(["loadtest", server.url, *SHORT]) == 130
        sends.join()
        assert not list(Path().iterdir())
    assert not [one for one in psutil.Process().children() if "locust" in one.cmdline()]


def test_a_server_whose_process_has_ended_is_known() -> None:
    bound = "import socket; bound = socket.create_server(('127.0.0.1', 0))"
    program = f"{bound}; print(bound.getsockname()[1], flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        processes = ServerProcesses(int(server.stdout.readline()))
        assert processes.words and processes.look() and not processes.have_ended
        server.kill()
        server.wait()
        assert processes.have_ended and processes.look() is None
    ended = replace(_result("a"), has_server_ended=True, stages=(stage_of(1, 9, 1.0, []),))
    assert ended.reasons[0] == "the server's process has ended in the middle of the test"
    why = {f"reason {number}": number for number in range(1, 9)}
    many = replace(ended, stages=(replace(ended.stages[0], why=why | dict(ended.stages[0].why)),))
    assert [one.partition(":")[0] for one in many.reasons[1:]] == [
        *(f"{number} times" for number in (8, 7, 6, 5)),
        "4 other reasons",
        "9 times",
    ]


def test_what_the_first_answer_says_ends_the_test_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with answering("refuses") as server:
        assert main(["loadtest", server.url, *SHORT]) == 2
        assert len(server.bodies) == 1
    out = capsys.readouterr().out
    assert "CF841" in out and "HTTP 422" in out and "--completions" in out
    assert not list(Path().iterdir())


def test_texts_to_go_on_with(tmp_path: Path) -> None:
    Path("asked.txt").write_text("Once\n\nupon a time\n", encoding="utf-8")
    with answering() as server:
        words = ("--completions", "--prompts", "asked.txt", "--out", "kept")
        assert main(["loadtest", server.url, *SHORT, *words]) == 0
        assert {body["prompt"] for body in server.bodies} == {"Once", "upon a time"}
        assert set(server.paths) == {"/v1/completions"}
    assert Path("kept.json").is_file() and Path("kept.html").is_file()


@pytest.mark.parametrize("url", ["http://192.0.2.1:8000", "192.0.2.1:8000/v1"])
def test_another_machine_is_not_loaded_without_a_word(url: str) -> None:
    with pytest.raises(Refused, match=r"CF840: http://192\.0\.2\.1:8000/v1 is not on this machine"):
        loadtest(url, LoadOptions())


@pytest.mark.parametrize(("models", "says"), [((), "it has 0 models"), (("one", "other"), "it has 2 models")])
def test_a_server_with_no_single_model_is_told_which(models: tuple[str, ...], says: str) -> None:
    with answering(models=models) as server, pytest.raises(Refused, match=f"CF841.*{says}"):
        loadtest(server.url, LoadOptions())


def test_no_server_no_address_no_questions() -> None:
    with answering() as server:
        gone = server.url
    with pytest.raises(Refused, match=r"CF841.*connection refused"):
        loadtest(gone, LoadOptions())
    with pytest.raises(Refused, match=r"CF841.*no address"):
        loadtest("http://127.0.0.1:port", LoadOptions())
    Path("empty.txt").write_text("\n", encoding="utf-8")
    for name in ("empty.txt", "nothing.txt"):
        with pytest.raises(Refused, match="CF804"):
            loadtest("http://127.0.0.1:1", LoadOptions(prompts=name))


def test_a_request_of_which_nothing_is_known_has_failed() -> None:
    stage = stage_of(2, 2, 1.0, [{"error": "", "arrived": [0.1, 0.3], "tokens": 2, "seconds": 0.4}])
    assert (stage.requests, stage.failed) == (4, 3) and sum(stage.why.values()) == 3
    assert stage.first_token_seconds == (0.1,) * 10 and stage.between_tokens_seconds[4] == 0.2


def _result(name: str, users: tuple[int, ...] = (1, 4)) -> LoadResult:
    answers = [{"error": "", "arrived": [0.1, 0.2], "tokens": 2, "seconds": 0.3}]
    stages = tuple(stage_of(one, 1, 1.0, answers * one) for one in users)
    return LoadResult(1, name, "http://127.0.0.1:8000/v1", "m", {"loops": 1}, "", True, stages, ())


def test_two_tests_are_shown_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("plain", "<b>half</b>"):
        _result(name).write(Path(f"{len(name)}.json"))
    assert main(["loadtest", "--compare", "5.json", "11.json"]) == 0
    assert capsys.readouterr().out.count("half") == 2
    page = Path("comparison.html").read_text(encoding="utf-8")
    assert "2 load tests" in page and "<b>half" not in page and "&lt;b&gt;half" in page


def test_two_tests_of_one_name_are_told_apart_by_their_files(capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("half/run", "full/run"):
        Path(folder).mkdir(parents=True)
        _result("tiny").write(Path(folder, "loadtest.json"))
    _result("tiny").write(Path("loadtest-2.json"))
    _result("other").write(Path("other.json"))
    files = ["half/run/loadtest.json", "full/run/loadtest.json", "other.json"]
    assert main(["loadtest", "--compare", *files]) == 0
    page = Path("comparison.html").read_text(encoding="utf-8")
    assert "tiny (half)" in page and "tiny (full)" in page and "other (" not in page
    assert main(["loadtest", "--compare", files[0], "loadtest-2.json", "--out", "b"]) == 0
    assert "tiny (half/run/loadtest)" in (out := capsys.readouterr().out) and "tiny (loadtest-2)" in out
    assert main(["loadtest", "--compare", files[0], f"./{files[0]}", "--out", "c"]) == 2
    assert "named twice" in capsys.readouterr().out


def test_what_differs_between_two_tests_is_said() -> None:
    first, other = _result("a"), replace(_result("b"), plan={"loops": 7}, begun="2026-01-02T03:04:05+00:00")
    page = load_page([first, other])
    said = page.partition("What differs")[2].partition("What it bears")[0]
    assert "2026-01-02 03:04:05 UTC" in said and "requests of each user" in said and "address" not in said
    assert "What differs" not in load_page([first])


def test_a_test_without_an_answer_says_so() -> None:
    lost = replace(_result("a"), passed=False, stages=(stage_of(1, 9, 1.0, []), stage_of(2, 9, 1.0, [])))
    page = load_page([lost])
    assert "No request was answered." in page and "More users at once" not in page
    assert "27 of 27 requests failed" in page and "<figure" not in page


def test_what_is_no_result_is_not_compared() -> None:
    Path("other.json").write_text("{}", encoding="utf-8")
    _result("plain").write(Path("plain.json"))
    for names in (["plain.json", "other.json"], ["plain.json"], ["plain.json", "nothing.json"]):
        assert main(["loadtest", "--compare", *names]) == 2
    assert not Path("comparison.html").exists()
