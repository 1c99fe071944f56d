"""A server of a few lines that speaks as OpenAI's does, as well or as badly as a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = ("one", "two", "three")


class AnsweringServer(ThreadingHTTPServer):
    """behaves: by the number of the request, from 0: `well`, `done` (says [DONE], gives no reason to end),
    `refuses` (HTTP 422), `breaks off`, `error` (inside the stream), `silent` (until it is closed). The last
    one holds for all later ones.
    """

    daemon_threads = True

    def __init__(self, *behaves: str, models: tuple[str, ...] = ("tiny",)) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaves = behaves or ("well",)
        self.models = models
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.closing, self.asked = threading.Event(), threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: AnsweringServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(200, {"object": "list", "data": [{"id": name} for name in self.server.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.bodies)
            self.server.bodies.append(body)
            self.server.paths.append(self.path)
        how = self.server.behaves[min(number, len(self.server.behaves) - 1)]
        self.close_connection = True
        if how == "refuses":
            return self._answer(422, {"detail": "Unexpected fields in the request"})
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if how == "silent":
            self.server.closing.wait()
            return
        for word in WORDS:
            self._chunk({"choices": [{"delta": {"content": word}}]})
        if how == "breaks off":
            return
        if how == "error":
            self._chunk({"error": "out of memory"})
        elif how == "done":
            self._write(b"data: [DONE]\n\n")
        else:
            end = {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"completion_tokens": 5}}
            self._chunk(end)
        self._write(b"")

    def _chunk(self, value: Any) -> None:
        self._write(f"data: {json.dumps(value)}\n\n".encode())

    def _write(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _answer(self, code: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def answering(*behaves: str, models: tuple[str, ...] = ("tiny",)) -> Iterator[AnsweringServer]:
    with AnsweringServer(*behaves, models=models) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()
