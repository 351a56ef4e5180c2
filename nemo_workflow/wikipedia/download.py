"""Files of a dump: fetched with resume, checked against their SHA-1, fetched once more if that differs."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import requests

from nemo_workflow.utils.errors import Failure
from nemo_workflow.utils.files import fsync_dir
from nemo_workflow.wikipedia.http import ATTEMPTS, CONNECTIONS, Client, Stopped, Unreachable, back_off, plain_reason
from nemo_workflow.wikipedia.site import RemoteFile

CHUNK = 1 << 18


class Tally:
    """Bytes of a download, counted by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.done = 0  # right and on disk
        self.fetched = 0  # of these, fetched by this process
        self.total = 0
        self._notes: list[str] = []

    def add(self, done: int, fetched: int = 0) -> None:
        with self._lock:
            self.done += done
            self.fetched += fetched

    def note(self, text: str) -> None:
        with self._lock:
            self._notes.append(text)

    def take_notes(self) -> list[str]:
        """What happened since the last call and a person should know."""
        with self._lock:
            notes, self._notes = self._notes, []
        return notes


class Downloads:
    """Fetches files into `folder` on at most two connections. The threads are daemons: Ctrl-C need not wait for a socket."""

    def __init__(self, folder: Path, make_client: Callable[[threading.Event], Client], tally: Tally):
        self.folder = folder
        self.make_client = make_client
        self.tally = tally
        self.stop = threading.Event()
        self._jobs: queue.SimpleQueue[tuple[RemoteFile, Future[Path]]] = queue.SimpleQueue()
        for _ in range(CONNECTIONS):
            threading.Thread(target=self._serve, daemon=True).start()

    def submit(self, file: RemoteFile) -> Future[Path]:
        """The path of `file` once it is right; its exception is a Failure, or Stopped."""
        future: Future[Path] = Future()
        self._jobs.put((file, future))
        return future

    def _serve(self) -> None:
        with self.make_client(self.stop) as client:
            while True:
                file, future = self._jobs.get()
                try:
                    future.set_result(fetch(client, file, self.folder, self.tally))
                except BaseException as error:  # noqa: BLE001  it is the waiting thread's to handle
                    future.set_exception(error)


def fetch(client: Client, file: RemoteFile, folder: Path, tally: Tally) -> Path:
    """Make folder/NAME right and return it; half a file waits as NAME.part. Raises Failure or OSError (disk full)."""
    path, part = folder / file.name, folder / f"{file.name}.part"
    if path.exists():
        if path.stat().st_size == file.size and _sha1(path, client).hexdigest() == file.sha1:
            tally.add(file.size)
            return path
        path.replace(part)
    for last_chance in (False, True):
        digest = _download(client, file, part, tally)
        if digest == file.sha1:
            part.replace(path)
            fsync_dir(folder)
            return path
        tally.add(-file.size)
        part.unlink()
        if not last_chance:
            tally.note(f"{file.name}: its SHA-1 is {digest}, not {file.sha1}; fetching it again")
    raise Failure(
        f"{file.url}: SHA-1 {digest} instead of {file.sha1}, twice; the site or a proxy between spoils the file: "
        "name a mirror with --base-url or take another --date"
    )


def _download(client: Client, file: RemoteFile, part: Path, tally: Tally) -> str:
    """Fetch what `part` lacks; return the SHA-1 of the whole."""
    if part.exists() and part.stat().st_size > file.size:
        part.unlink()
    with part.open("ab") as stream:
        digest = _sha1(part, client)
        have = stream.tell()
        tally.add(have)
        failures = 0
        while have < file.size:
            before = have
            try:
                with client.open(file.url, {"Range": f"bytes={have}-"} if have else {}) as response:
                    if response.status_code == 200 and have:  # this server knows no ranges
                        stream.truncate(0)
                        tally.add(-have)
                        have, digest = 0, hashlib.sha1(usedforsecurity=False)
                    elif not _answers(response, have):
                        raise Failure(
                            f"{file.url}: HTTP {response.status_code} for bytes from {have} on; "
                            "name a mirror with --base-url or take another --date"
                        )
                    for chunk in response.iter_content(CHUNK):
                        chunk = chunk[: file.size - have]
                        if not chunk:
                            break  # longer than promised
                        stream.write(chunk)
                        digest.update(chunk)
                        have += len(chunk)
                        tally.add(len(chunk), len(chunk))
                        if client.stop.is_set():
                            raise Stopped
                if have < file.size:
                    raise requests.ConnectionError("the connection ended early")
            except Unreachable as error:
                raise Failure(f"{error}; {_goes_on(have, file)}") from None
            except requests.RequestException as error:
                failures = 0 if have > before else failures + 1
                if failures >= ATTEMPTS:
                    raise Failure(f"{file.url}: {plain_reason(error)}; {_goes_on(have, file)}") from None
                client.pause(back_off(failures))
    return digest.hexdigest()


def _answers(response: requests.Response, start: int) -> bool:
    if response.status_code == 206:
        return response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
    return response.status_code == 200


def _goes_on(have: int, file: RemoteFile) -> str:
    return (
        f"{have} of {file.size} bytes are here and the same command continues from there: "
        "check the network, or name a mirror with --base-url"
    )


def _sha1(path: Path, client: Client) -> hashlib._Hash:
    digest = hashlib.sha1(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
            if client.stop.is_set():
                raise Stopped
    return digest
