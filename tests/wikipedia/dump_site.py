"""A small dump site on this machine: folders, ranges, and failures on purpose."""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.waiting import LIMIT


@dataclass
class Fault:
    """What goes wrong with one request."""

    status: int = 0  # answer with this status
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int = -1  # close the connection after so many bytes
    spoil: bool = False  # change a byte
    ignore_range: bool = False
    slow: float = 0.0  # seconds before each 16 KiB
    held: threading.Event | None = None  # the answer's content waits for it


@dataclass
class Asked:
    path: str
    range: str | None
    agent: str


class DumpSite:
    """Serves `root`; `faults[ending]` lists the faults of the next requests for paths with that ending."""

    def __init__(self, root: Path):
        self.root = root
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.asked: list[Asked] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def ranges(self, ending: str) -> list[str | None]:
        """The Range headers of the requests for a path with that ending."""
        return [asked.range for asked in self.asked if asked.path.endswith(ending)]

    def _next_fault(self, path: str) -> Fault:
        with self._lock:
            for ending, faults in self.faults.items():
                if path.endswith(ending) and faults:
                    return faults.pop(0)
        return Fault()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with site._lock:
                    site._at_once += 1
                    site.most_at_once = max(site.most_at_once, site._at_once)
                    site.asked.append(Asked(self.path, self.headers["Range"], self.headers["User-Agent"]))
                try:
                    self._answer(site._next_fault(self.path))
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True
                finally:
                    with site._lock:
                        site._at_once -= 1

            def _answer(self, fault: Fault) -> None:
                path = site.root / self.path.strip("/")
                if fault.status:
                    return self._send(fault.status, b"busy", fault.headers)
                if path.is_dir():
                    rows = "".join(f'<a href="{p.name}/">{p.name}/</a>\n' for p in sorted(path.iterdir()))
                    return self._send(
                        200, f'<html><a href="../">../</a>\n{rows}<a href="latest/">latest/</a>'.encode(), {}
                    )
                if not path.is_file():
                    return self._send(404, b"none", {})
                content, start = path.read_bytes(), 0
                found = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
                status, headers = 200, {}
                if found and not fault.ignore_range:
                    start = int(found[1])
                    status = 206
                    headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                body = bytearray(content[start:])
                if fault.spoil:
                    body[len(body) // 2] ^= 1
                return self._send(status, bytes(body), headers, fault)

            def _send(self, status: int, body: bytes, headers: dict[str, str], fault: Fault | None = None) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if fault and fault.cut_after >= 0:
                    self.wfile.write(body[: fault.cut_after])
                    self.close_connection = True
                    return
                if fault and fault.held:
                    fault.held.wait(LIMIT)
                for start in range(0, len(body), 16384):
                    if fault and fault.slow:
                        time.sleep(fault.slow)
                    self.wfile.write(body[start : start + 16384])

            def log_message(self, *_: object) -> None:
                pass

        return Handler
