"""The tiny model behind the real `transformers serve`: what the page says to type is typed; load tests of a
server that lives, and of one that is killed in the middle.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from crossfoot.data.tiny_tokenizer import write_tiny_tokenizer
from crossfoot.models.tiny_model import write_tiny_model
from crossfoot.serving.load_result import read_result

pytestmark = pytest.mark.slow
CROSSFOOT = [sys.executable, "-m", "crossfoot"]
TEMPLATE = "{% for one in messages %}{{ one['content'] }}{% endfor %}"


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[str]
    url: str
    page: str

    @property
    def server(self) -> psutil.Process:
        (child,) = psutil.Process(self.process.pid).children()
        return child


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.chdir(tmp_path)
    folder = write_tiny_tokenizer(str(tmp_path))
    write_tiny_model(folder)
    Path(folder, "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
    words = [*CROSSFOOT, "serve", folder, "--port", str(port)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        page = ""
        while "under load" not in page:
            line = process.stdout.readline()
            assert line, page
            page += line
        yield Running(process, f"http://127.0.0.1:{port}", page)
        process.kill()


def test_what_the_page_says_is_typed_and_the_server_goes_with_us(running: Running) -> None:
    curl = next(line for line in running.page.splitlines() if line.startswith("  curl "))
    said = subprocess.run(["bash", "-c", curl], capture_output=True, check=True).stdout
    assert json.loads(said)["usage"]["completion_tokens"] > 0
    (snippet,) = re.findall(r"^  from openai.*?^  print.*?$", running.page, re.DOTALL | re.MULTILINE)
    program = "\n".join(line.removeprefix("  ") for line in snippet.splitlines())
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout.strip()
    models = subprocess.run(["curl", "-s", f"{running.url}/v1/models"], capture_output=True, check=True)
    (model,) = json.loads(models.stdout)["data"]
    assert f'"model": "{model["id"]}"' in curl
    server = running.server
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait() == 0 and not server.is_running()


def test_a_load_test_of_it_and_one_in_which_it_is_killed(running: Running) -> None:
    words = [*CROSSFOOT, "loadtest", running.url, "--users", "2", "--max-tokens", "8", "--ramp-up", "0"]
    assert subprocess.run([*words, "--loops", "8"], check=False).returncode == 0
    result = read_result("loadtest.json")
    assert result.passed and result.samples and result.samples[-1].memory_bytes > 100e6
    with subprocess.Popen([*words, "--loops", "5000"], stderr=subprocess.PIPE, text=True) as tested:
        assert tested.stderr is not None
        while "answered" not in tested.stderr.readline():
            pass
        os.kill(running.server.pid, signal.SIGKILL)
        code = tested.wait()
    killed = read_result("loadtest-2.json")
    assert not killed.passed and "the answer broke off" in killed.why and killed.has_server_ended
    assert code == 1 and running.process.wait() == 1
