"""A server on this machine where W&B's should be: a mock, since the real one is outside. It answers as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HISTORY = "wandb-history.jsonl"


class Server(ThreadingHTTPServer):
    """`how` it answers, changed at any time: well, 500, nonsense, or never. `rows`: the history of each run by its id."""

    daemon_threads = True

    def __init__(self, how: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.how = how
        self.rows: dict[str, list[dict[str, Any]]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The other end has gone: nothing to say."""

    def graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """What W&B's client needs to hear to open a run, or to go on with one."""
        if "upsertBucket" in query:
            bucket = self.bucket(variables["name"])
            self.rows.setdefault(variables["name"], [])
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        if "viewer" in query:
            return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        if "historyTail" in query and variables["name"] in self.rows:
            return {"model": {"bucket": self.bucket(variables["name"])}}
        return {"serverInfo": {"features": []}, "model": None}

    def bucket(self, name: str) -> dict[str, Any]:
        rows = self.rows.get(name, [])
        return {
            "id": "b", "name": name, "displayName": name, "description": None, "config": "{}", "sweepName": None,
            "historyLineCount": len(rows), "eventsLineCount": 0, "logLineCount": 0, "historyTail": json.dumps(
                [json.dumps(row) for row in rows[-1:]]), "eventsTail": "[]", "summaryMetrics": "{}", "tags": [],
            "wandbConfig": '{"t": 1}', "project": {"id": "p", "name": "tests", "entity": {"id": "e", "name": "me"}},
        }  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(errors="replace")
        while self.server.how == "never":
            time.sleep(0.2)
        status, text = {"500": (500, "no"), "nonsense": (200, "<html>Welcome to our hotel! Please log in.</html>")}.get(
            self.server.how, (200, "{}")
        )
        if self.server.how == "well" and self.path == "/graphql":
            asked = json.loads(body)
            text = json.dumps({"data": self.server.graphql(asked["query"], asked.get("variables") or {})})
        elif self.server.how == "well" and self.path.endswith("/file_stream"):
            lines = json.loads(body).get("files", {}).get(HISTORY, {}).get("content", [])
            self.server.rows[self.path.split("/")[-2]] += map(json.loads, lines)
        if self.path == "/go-away":
            self.server.how = "never"  # from the next question on
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_PUT = do_POST

    def log_message(self, *words: Any) -> None:
        """Not on stderr."""


@contextmanager
def serving(how: str) -> Iterator[Server]:
    server = Server(how)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
