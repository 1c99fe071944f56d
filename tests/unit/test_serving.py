"""`crossfoot serve`: what is refused before anything starts, the folder that is served, and a server that is
never left behind. The server here is a stand-in of a few lines; tests/loop/test_serve.py starts the real one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossfoot.cli import main
from crossfoot.findings.finding import Refused
from crossfoot.serving import server
from crossfoot.serving.model_folder import Served, served_model
from crossfoot.serving.serve import ServeOptions, how_to_ask, serve
from crossfoot.serving.server import TransformersServer, refuse_port, url_of

STAND_IN = """
import http.server, sys
class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200), self.end_headers()
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Answers).serve_forever()
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "a model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}", encoding="utf-8")
    return folder


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def _refused(path: Path | str, **kwargs: object) -> str:
    with pytest.raises(Refused) as refused:
        served_model(str(path), None)
    return str(refused.value)


def test_a_port_in_use_is_refused_before_anything_else(
    taken_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Refused, match="CF830: nothing can listen"):
        refuse_port("127.0.0.1", taken_port)
    assert main(["serve", "nothing-of-this-name", "--port", str(taken_port)]) == 1
    words = capsys.readouterr()
    assert "CF830" in words.out + words.err and "name another port: --port" in words.out + words.err


def test_an_address_of_another_machine_is_no_place_to_listen() -> None:
    with pytest.raises(Refused, match="CF830"):
        refuse_port("192.0.2.1", _free_port())
    with pytest.raises(Refused, match="CF830"):
        refuse_port("127.0.0.1", 70000)


def test_a_model_is_served_as_it_is(model: Path) -> None:
    served = served_model(str(model), None)
    assert served == Served("a model", model) and not served.has_chat_template
    (model / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}', encoding="utf-8")
    assert served.has_chat_template


@pytest.mark.parametrize(
    ("lacks", "says"),
    [
        ("config.json", "neither config.json"),
        ("tokenizer.json", "no tokenizer"),
        ("model.safetensors", "no weights"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(model: Path, lacks: str, says: str) -> None:
    (model / lacks).unlink()
    assert says in _refused(model)


def test_steps_are_a_runs(model: Path) -> None:
    with pytest.raises(Refused, match="is no run"):
        served_model(str(model), 4)


def _adapter(folder: Path, **values: object) -> Path:
    folder.mkdir()
    known = {"peft_type": "LORA", "r": 12, "base_model_name_or_path": "/models/base", "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**known, **values}), encoding="utf-8")
    header = json.dumps({}).encode()
    (folder / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    return folder


def _merged_before(adapter: Path, model: Path, proven: bool) -> Path:
    """What a merge of this adapter would have left."""
    from crossfoot.serving.model_folder import _mark_of_adapter

    folder = model.rename(f"{adapter}-merged-{_mark_of_adapter(str(adapter))}")
    (folder / "merge.json").write_text(json.dumps({"proven": proven}), encoding="utf-8")
    return folder


def test_what_was_merged_before_is_served_again_and_another_adapter_is_not_it(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = _adapter(tmp_path / "adapter")
    folder = _merged_before(adapter, model, proven=True)
    assert served_model(str(adapter), None) == Served("adapter", folder)
    asked: list[list[str]] = []

    def merges(words: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        asked.append(words)
        return subprocess.CompletedProcess(words, 1)

    monkeypatch.setattr(subprocess, "run", merges)
    values = {"peft_type": "LORA", "r": 16, "base_model_name_or_path": "gone"}
    (adapter / "adapter_config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(Refused, match="CF769"):
        serve(str(adapter), ServeOptions("vllm", "127.0.0.1", 8000))
    values["base_model_name_or_path"] = str(folder)
    (adapter / "adapter_config.json").write_text(json.dumps(values), encoding="utf-8")
    assert serve(str(adapter), ServeOptions("vllm", "127.0.0.1", 8000)) == 1
    assert asked[0][3] == "merge" and asked[0][5] != os.path.relpath(folder)


def test_a_merge_that_is_not_proven_is_not_served(tmp_path: Path, model: Path) -> None:
    adapter = _adapter(tmp_path / "adapter")
    _merged_before(adapter, model, proven=False)
    assert "CF835" in _refused(adapter)


def test_vllm_is_told_of_the_merged_model(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(str(model), ServeOptions("vllm", "0.0.0.0", 8001, dtype="bfloat16")) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == (
        f"vllm serve '{model}' --served-model-name a-model --host 0.0.0.0 --port 8001 --dtype bfloat16"
    )


def test_vllm_is_told_of_an_adapter_that_it_can_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = _adapter(tmp_path / "adapter")
    assert serve(str(adapter), ServeOptions("vllm", "127.0.0.1", 8000, is_merged=False)) == 0
    assert f"--enable-lora --lora-modules adapter={adapter} --max-lora-rank 16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, "whole tables .embed_tokens, lm_head."),
        ({"trainable_token_indices": [3, 4]}, "rows of tokens"),
        ({"use_dora": True}, "DoRA"),
        ({"rank_pattern": {"q_proj": 1024}}, "rank is 1024"),
    ],
)
def test_vllm_is_not_told_of_one_that_it_refuses(
    tmp_path: Path, values: dict[str, object], says: str
) -> None:
    adapter = _adapter(tmp_path / "adapter", **values)
    with pytest.raises(Refused, match=f"CF833.*{says}"):
        serve(str(adapter), ServeOptions("vllm", "127.0.0.1", 8000, is_merged=False))


def test_the_curl_line_is_pasted_into_a_shell(model: Path) -> None:
    page = how_to_ask("http://127.0.0.1:8000", Served("it's", model))
    line = next(line for line in page.splitlines() if line.startswith("  curl"))
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line.removeprefix('  curl ')}"], capture_output=True, check=True
    )
    *_, body, _ = words.stdout.decode().split("\0")
    assert json.loads(body) == {"model": "it's", "prompt": "Hello", "max_tokens": 64}


def test_where_a_server_is_asked() -> None:
    assert url_of("0.0.0.0", 80) == "http://127.0.0.1:80" and url_of("::", 80) == "http://[::1]:80"


def test_a_server_is_waited_for_and_ends_with_us(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_START", STAND_IN)
    with TransformersServer(Served("m", model), "127.0.0.1", _free_port()) as started:
        assert started.wait_until_it_answers()
        room = Path(started._room.name)
        assert (room / "m" / "config.json").is_file()
        ends = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
        ends.start()
        started.wait_until_it_is_to_end()
    assert started._child.returncode == -signal.SIGTERM and not room.exists()


def test_a_server_that_ends_by_itself_is_said(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_START", "import sys; sys.exit(7)")
    with (
        pytest.raises(Refused, match="CF832: the server ended with code 7"),
        TransformersServer(Served("m", model), "127.0.0.1", _free_port()) as started,
    ):
        started.wait_until_it_answers()
    monkeypatch.setattr(server, "_START", STAND_IN)
    with (
        pytest.raises(Refused, match=r"CF834.*code -9"),
        TransformersServer(Served("m", model), "127.0.0.1", _free_port()) as started,
    ):
        assert started.wait_until_it_answers()
        started._child.kill()
        started.wait_until_it_is_to_end()


def test_a_server_ends_when_who_started_it_is_killed(model: Path) -> None:
    """What a kill -9 leaves: the system itself ends the server."""
    probe = server._START.replace(
        "from transformers.cli.transformers import main", "main = lambda: print('up', flush=True) or input()"
    )
    starter = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', sys.argv[1], str(os.getpid())], stdin=0)\n"
        "os.kill(os.getpid(), 19), child.wait()"
    )
    reads, holds = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", starter, probe], stdin=reads, stdout=subprocess.PIPE, text=True
    ) as parent:
        os.close(reads)
        assert parent.stdout is not None and parent.stdout.readline() == "up\n"
        parent.kill()
        assert parent.stdout.read() == ""  # at its end: both have closed it
    os.close(holds)
