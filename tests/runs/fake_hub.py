"""A stand-in for the Hugging Face Hub on a port of this machine: it takes what an upload sends, and keeps it."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_tokenOfTheTest"


class FakeHub:
    """Repositories by id, with their files; `closed` makes it refuse everything, and what `silent_at` is a part of is never answered."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.objects: dict[str, bytes] = {}
        self.commits: list[str] = []
        self.closed = False
        self.silent_at = ""
        self.over = threading.Event()
        self.url = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON of a request."""
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.repositories[name] = asked
            return 200, {"url": f"{self.url}/{name}", "name": name}
        if "/preupload/" in path:
            modes = [
                {"path": one["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular"}
                for one in json.loads(body)["files"]
            ]  # fmt: skip
            return 200, {"files": modes}
        if path.endswith("/info/lfs/objects/batch"):
            asked = json.loads(body)["objects"]
            return 200, {
                "transfer": "basic",
                "objects": [one | {"actions": {"upload": {"href": f"{self.url}/put/{one['oid']}"}}} for one in asked],
            }
        if method == "PUT":
            self.objects[path.rsplit("/", 1)[1]] = body
            return 200, {}
        if "/commit/" in path:
            return self._commit(path, body)
        if method == "GET" and path.startswith("/api/models/"):
            return 200, {"id": path.removeprefix("/api/models/"), "sha": "0" * 40, "private": True, "siblings": []}
        return 404, {"error": f"{method} {path}"}

    def _commit(self, path: str, body: bytes) -> tuple[int, Any]:
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                self.commits.append(value["summary"])
            elif entry["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                self.files[value["path"]] = self.objects[value["oid"]]
        name = path.removeprefix("/api/models/").split("/commit/")[0]
        return 200, {"commitUrl": f"{self.url}/{name}/commit/{'a' * 40}", "commitOid": "a" * 40}


@contextlib.contextmanager
def running() -> Iterator[FakeHub]:
    """A hub that listens until the block ends."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            known = self.command == "PUT" or self.headers.get("Authorization") == f"Bearer {TOKEN}"
            path = self.path.partition("?")[0]
            if hub.silent_at and hub.silent_at in path:
                hub.over.wait()
                return
            status, said = hub.answer(self.command, path, body) if known and not hub.closed else (401, {"error": "no"})
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = _serve

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.over.set()
        server.shutdown()
        server.server_close()
