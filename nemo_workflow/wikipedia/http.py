"""HTTP as Wikimedia asks for it: a User-Agent that says who calls, patience on 429 and 503, no more than two connections.

Policy: https://foundation.wikimedia.org/wiki/Policy:Wikimedia_Foundation_User-Agent_Policy
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from types import TracebackType

import requests

CONNECTIONS = 2  # what dumps.wikimedia.org allows one address
TIMEOUT = (15, 60)  # seconds to connect, and between two packets
BUSY = frozenset((429, 500, 502, 503, 504))
LONGEST_WAIT = 300.0
ATTEMPTS = 6
FIRST_WAIT = 1.0  # seconds; doubles with each failed attempt


class Unreachable(Exception):
    """The site gave no usable answer in all attempts; the message says what it gave."""


class Stopped(Exception):
    """Someone asked this client to stop while it waited."""


class Client:
    """One session of one thread; `stop` ends its waits."""

    def __init__(self, user_agent: str, stop: threading.Event | None = None):
        self.session = requests.Session()
        self.session.headers.update({"User-Agent": user_agent, "Accept-Encoding": "identity"})
        self.stop = stop or threading.Event()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.session.close()

    def open(self, url: str, headers: Mapping[str, str] | None = None, attempts: int = ATTEMPTS) -> requests.Response:
        """The response to a GET whose body is yet to be read, of any status that isn't BUSY; raises Unreachable."""
        for attempt in range(attempts):
            wait = back_off(attempt)
            try:
                response = self.session.get(url, headers=headers, stream=True, timeout=TIMEOUT)
            except requests.RequestException as error:
                reason = plain_reason(error)
            else:
                if response.status_code not in BUSY:
                    return response
                reason = f"HTTP {response.status_code}"
                wait = retry_after(response) or wait
                response.close()
            if attempt + 1 < attempts:
                self.pause(wait)
        raise Unreachable(f"{url}: {reason}, {attempts} times")

    def pause(self, seconds: float) -> None:
        """Wait; raises Stopped when told to stop meanwhile."""
        if self.stop.wait(min(seconds, LONGEST_WAIT)):
            raise Stopped


def back_off(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return FIRST_WAIT * 2**failures * random.uniform(1, 1.25)


def retry_after(response: requests.Response) -> float | None:
    """Seconds that the server asks to wait, from its Retry-After header (a number or a date)."""
    value = response.headers.get("Retry-After", "")
    if value.isdigit():
        return float(value)
    try:
        asked = parsedate_to_datetime(value)
        sent = parsedate_to_datetime(response.headers.get("Date", ""))
        return max(0.0, (asked - sent).total_seconds())
    except (TypeError, ValueError):
        return None


def plain_reason(error: Exception) -> str:
    """The innermost reason of a requests error, without the object addresses that urllib3 prints."""
    reason: BaseException = error
    while (inner := reason.__cause__ or reason.__context__) is not None:
        reason = inner
    return f"{type(error).__name__}: {reason}" if str(reason) else type(error).__name__
