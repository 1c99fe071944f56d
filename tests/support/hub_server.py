"""A hub of Hugging Face on this machine, as far as `hf download` asks one: what a repository holds, and its
files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread


@contextmanager
def hub_of(name: str, folder: Path, commit: str) -> Iterator[tuple[str, list[str]]]:
    """(address, the paths that were asked for) of a hub with one model, whose files are those of `folder`."""
    asked: list[str] = []
    files = sorted(path.name for path in folder.iterdir())

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            path = self.path.partition("?")[0]
            if path.startswith(f"/api/models/{name}"):
                siblings = [{"rfilename": one} for one in files]
                told = {"id": name, "sha": commit, "siblings": siblings, "private": False, "gated": False}
                tree = [
                    {"type": "file", "path": one, "size": (folder / one).stat().st_size, "oid": "0"}
                    for one in files
                ]
                self._answer(json.dumps(tree if "/tree/" in path else told).encode())
            elif path.startswith(f"/{name}/resolve/") and (one := path.rpartition("/")[2]) in files:
                self._answer((folder / one).read_bytes())
            else:
                self.send_error(404)

        do_HEAD = do_GET

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()
