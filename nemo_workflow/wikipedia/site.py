"""A dump site: which dumps a wiki has, whether they are finished, their files and checksums.

The dates come from the wiki's folder (the site has no JSON for them), everything else from DATE/dumpstatus.json.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from nemo_workflow.utils.errors import Refusal
from nemo_workflow.wikipedia.http import Client, Unreachable

JOB = "articlesmultistreamdump"
# Languages whose wikis have an older name (https://meta.wikimedia.org/wiki/Special_language_codes).
OLD_NAMES = {
    "lzh": "zh_classical",
    "yue": "zh_yue",
    "nan": "zh_min_nan",
    "be-tarask": "be_x_old",
    "gsw": "als",
    "sgs": "bat_smg",
    "vro": "fiu_vro",
    "rup": "roa_rup",
    "nb": "no",
}
_ATTEMPTS = 3
# A folder in a listing of whatever make (links, JSON, a bucket's XML, plain text): a date that is no part of a file's name. One that
# is no dump's has no status, and is passed over.
_LISTED = re.compile(r"(?<![\w.-])(20\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))(?![\w.-])")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a dump. `sha1` is in hexadecimal digits, `size` in bytes."""

    name: str
    url: str
    size: int
    sha1: str


@dataclass(frozen=True)
class Part:
    """One multistream file and its index."""

    articles: RemoteFile
    index: RemoteFile


@dataclass(frozen=True)
class Dump:
    wiki: str
    date: str
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        return f"{self.wiki}-{self.date}-pages-articles-multistream"


def wiki_name(language: str, project: str = "wikipedia") -> str:
    """zh-classical -> zh_classicalwiki; en, wiktionary -> enwiktionary."""
    return OLD_NAMES.get(language, language.replace("-", "_")) + ("wiki" if project == "wikipedia" else project)


def _listed(page: str) -> set[str]:
    """The dates in a listing."""
    return set(_LISTED.findall(unquote(page)))


class Site:
    """A dump site at `base_url`: Wikimedia's own or a mirror with the same folders."""

    def __init__(self, client: Client, base_url: str):
        self.client = client
        self.base_url = base_url.rstrip("/")

    def find(self, language: str, date: str | None, project: str = "wikipedia") -> Dump:
        """The dump of `date`, or the newest finished one; raises Refusal."""
        wiki = wiki_name(language, project)
        dates = self._dates(wiki, language)
        if date:
            if date not in dates:
                raise Refusal(f"--date {date}: {self.base_url} has no such dump of {wiki}; it has {', '.join(dates)}")
            job = self._job(wiki, date)
            if job.get("status") != "done":
                raise Refusal(
                    f"--date {date}: the dump of {wiki} isn't finished ({job.get('status', 'no status yet')}); "
                    "wait a day or leave --date out for the newest finished one"
                )
            return self._dump(wiki, date, job)
        for candidate in dates:
            job = self._job(wiki, candidate)
            if job.get("status") == "done":
                return self._dump(wiki, candidate, job)
        raise Refusal(
            f"--language {language}: none of the dumps of {wiki} at {self.base_url} is finished ({', '.join(dates)}); "
            "try again in a day, or another mirror with --base-url"
        )

    def _dates(self, wiki: str, language: str) -> list[str]:
        """Dates of the dumps in the wiki's folder, newest first."""
        url = f"{self.base_url}/{wiki}/"
        page = self._get(url)
        dates = sorted(_listed(page or ""), reverse=True)
        if not dates:
            raise Refusal(
                f"--language {language}: {url} {'holds no dumps' if page else 'does not exist (HTTP 404)'}; "
                "see https://meta.wikimedia.org/wiki/List_of_Wikipedias for the codes"
            )
        return dates

    def _job(self, wiki: str, date: str) -> dict[str, Any]:
        """The state of the multistream job; empty while the dump has none."""
        url = f"{self.base_url}/{wiki}/{date}/dumpstatus.json"
        text = self._get(url)
        if text is None:
            return {}
        try:
            job = json.loads(text).get("jobs", {}).get(JOB, {})
        except (ValueError, AttributeError):
            raise Refusal(f"{url}: not the JSON of a dump's status; try another mirror with --base-url") from None
        return job if isinstance(job, dict) else {}

    def _dump(self, wiki: str, date: str, job: dict[str, Any]) -> Dump:
        """Pair the articles with their indexes; the parts of a large wiki in the order of their pages."""
        pattern = re.compile(
            rf"{re.escape(wiki)}-{date}-pages-articles-multistream(-index)?(\d*)\.(?:xml|txt)(?:-p(\d+)p(\d+))?\.bz2"
        )
        files: dict[tuple[int, int], dict[str, RemoteFile]] = {}
        for name, facts in job.get("files", {}).items():
            if found := pattern.fullmatch(name):
                place = (int(found[2] or 0), int(found[3] or 0))
                kind = "index" if found[1] else "articles"
                files.setdefault(place, {})[kind] = self._file(wiki, date, name, facts)
        if len(files) > 1:
            files.pop((0, 0), None)  # the same pages again in one file
        parts = tuple(Part(pair["articles"], pair["index"]) for _, pair in sorted(files.items()) if len(pair) == 2)
        if not parts or len(parts) < len(files):
            raise Refusal(
                f"--date {date}: the status of {wiki} lists no complete set of multistream files and indexes; "
                "take another --date or another mirror with --base-url"
            )
        return Dump(wiki, date, parts)

    def _file(self, wiki: str, date: str, name: str, facts: dict[str, Any]) -> RemoteFile:
        size, sha1 = facts.get("size"), facts.get("sha1")
        if not isinstance(size, int) or not isinstance(sha1, str) or not re.fullmatch("[0-9a-f]{40}", sha1):
            raise Refusal(
                f"--date {date}: the status of {wiki} gives no size or no SHA-1 for {name}; wait for the site to finish "
                "its checksums, or take another --date"
            )
        return RemoteFile(name, f"{self.base_url}/{wiki}/{date}/{name}", size, sha1)

    def _get(self, url: str) -> str | None:
        """The text at `url`, None if it is not there; raises Refusal when the site can't be reached."""
        try:
            with self.client.open(url, attempts=_ATTEMPTS) as response:
                if response.status_code == 404:
                    return None
                response.raise_for_status()
                response.encoding = "utf-8"
                return response.text
        except (Unreachable, OSError) as error:  # requests' own errors are OSErrors
            raise Refusal(
                f"--base-url {self.base_url}: {error}; check the network and the proxy variables "
                "(https_proxy, no_proxy), or name a mirror"
            ) from None
