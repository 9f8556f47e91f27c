"""The dumps of a Wikipedia, and the files of one that the cleaner reads, with sizes and sums.

    find_dump(dump_server(url, retries), "enwiki", "latest").files

The server lists a wiki's dates at URL/WIKI/, and describes one dump in URL/WIKI/DATE/dumpstatus.json. Large wikis are
split into pieces. A mirror with the same layout works too.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.request import Request

from pipeline.preparation.downloads import NotFound, Retries, Server, ServerError
from pipeline.preparation.file_download import ListedFile
from utils.errors import PipelineError, UsageError

LATEST = "latest"
_JOB = "articlesmultistreamdump"  # all articles with their current text, as MediaWiki XML in bzip2
_REFUSALS = {401: "check dataset.dumps_url", 403: "check dataset.dumps_url"}
_DATE_LINK = re.compile(r'href="(?:[^"]*/)?(\d{8})/?"')


@dataclass(frozen=True)
class Dump:
    wiki: str
    date: str
    files: tuple[ListedFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def dump_server(url: str, retries: Retries) -> Server:
    if not url.startswith(("http://", "https://")):
        raise PipelineError(f"dataset.dumps_url is {url!r}, expected an address that starts with https:// or http://")
    return Server(url.rstrip("/"), retries, _request, _REFUSALS, "dataset.dumps_url")


def find_dump(server: Server, wiki: str, date: str) -> Dump:
    """The dump of `date` (YYYYMMDD), or the newest complete one for `latest`.

    Raises:
        PipelineError: no such wiki or date, or that dump is not complete.
    """
    if not re.fullmatch(r"[a-z0-9_]+", wiki):
        raise UsageError(f"--download {wiki!r}, expected the name of a wiki, for example enwiki, simplewiki or dewiki")
    if not re.fullmatch(rf"\d{{8}}|{LATEST}", date):
        raise UsageError(f"--date {date!r}, expected YYYYMMDD or {LATEST}")
    dates = _dates(server, wiki)
    if date != LATEST and date not in dates:
        remedy = f"python3 dataset_prep.py --download {wiki} --date {dates[0]}"
        raise PipelineError(f"{wiki} has no dump of {date}, only of {', '.join(dates)}; try: {remedy}")
    states = {}
    for candidate in dates if date == LATEST else [date]:
        states[candidate], files = _files(server, wiki, candidate)
        if states[candidate] == "done":
            return Dump(wiki, candidate, files)
    found = ", ".join(f"{candidate} is {state!r}" for candidate, state in states.items())
    others = [candidate for candidate in dates if candidate not in states]
    remedy = f"choose another with --date ({', '.join(others)})" if others else "try again in a few days"
    raise PipelineError(f"{wiki} has no complete dump there: {found}, expected 'done'; {remedy}")


def _request(url: str, *, byte_range: tuple[int, int] | None = None) -> Request:
    """A request without a token. Wikimedia asks clients to give a name."""
    request = Request(url, headers={"User-Agent": "language-model-pipeline/1.0 (Python urllib)"})
    if byte_range:
        request.add_header("Range", f"bytes={byte_range[0]}-{byte_range[1] - 1}")
    return request


def _dates(server: Server, wiki: str) -> Sequence[str]:
    """The dates of the wiki's dumps, newest first."""
    url = f"{server.endpoint}/{wiki}/"
    try:
        page, _ = server.page(url, first=True)
    except NotFound:
        names = "enwiki, simplewiki or dewiki"
        raise PipelineError(
            f"{url} does not exist; expected the name of a wiki, such as {names}: "
            "python3 dataset_prep.py --download simplewiki"
        ) from None
    except ServerError as error:
        raise PipelineError(
            f"{error}; check the network, set dataset.dumps_url to a mirror, or put files that you have into "
            "paths.raw_dir and run python3 cleaner.py"
        ) from None
    dates = sorted(_DATE_LINK.findall(page.decode("utf-8", errors="replace")), reverse=True)
    if not dates:
        raise PipelineError(f"{url} lists no dates, expected folders such as 20251101/; check dataset.dumps_url")
    return dates


def _files(server: Server, wiki: str, date: str) -> tuple[str, tuple[ListedFile, ...]]:
    """The state of the dump, and its files in order once it is done. A dump without a description has not started."""
    path = f"/{wiki}/{date}"
    try:
        status, _ = server.json(f"{path}/dumpstatus.json")
    except NotFound:
        return "missing", ()
    name = re.compile(rf"{wiki}-{date}-pages-articles-multistream(\d*)\.xml(?:-p(\d+)p\d+)?\.bz2")
    files = {}
    try:
        job = status["jobs"][_JOB]
        for match in filter(None, map(name.fullmatch, job.get("files", ()) if job["status"] == "done" else ())):
            facts = job["files"][match[0]]
            order = int(match[1] or 0), int(match[2] or 0)
            files[order] = ListedFile(match[0], f"{path}/{match[0]}", int(facts["size"]), str(facts["sha1"]))
        state = str(job["status"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"has no usable {_JOB} ({type(error).__name__}: {error})"
        raise PipelineError(f"{server.endpoint}{path}/dumpstatus.json {problem}; choose another --date") from None
    if state == "done" and not files:
        raise PipelineError(f"{server.endpoint}{path}/dumpstatus.json lists no XML files in {_JOB}")
    return state, tuple(files[order] for order in sorted(files))
