"""Download single files from the Hugging Face hub, with token, redirects and hash checks."""

import hashlib
import re
from http.client import HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

_HASH = re.compile(r'(?:W/)?"?([0-9a-f]{64}|[0-9a-f]{40})"?')


class HubError(Exception):
    """The file could not be downloaded; `refused` if the hub requires a login or accepting terms."""

    def __init__(self, reason: object, *, refused: bool = False) -> None:
        super().__init__(str(reason).strip().partition("\n")[0])
        self.refused = refused


def download(repository: str, file: str, *, repo_type: str | None = None) -> bytes | None:
    """The content of `file`, from Hugging Face's cache if possible; None if the repository has no such file.

    Makes a single attempt; hf_hub_download would retry for half a minute without a network.

    Raises:
        HubError: no network, no such repository, no permission, or the content's hash is wrong.
    """
    from http.client import HTTPException
    from urllib.error import HTTPError

    from huggingface_hub import hf_hub_url, try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_OFFLINE

    try:
        cached = try_to_load_from_cache(repository, file, repo_type=repo_type)
        if isinstance(cached, str):
            return _cached_content(Path(cached))
        if HF_HUB_OFFLINE:
            raise HubError("HF_HUB_OFFLINE is set")
        request = hub_request(hf_hub_url(repository, file, repo_type=repo_type))
        response, stated = open_url(request, timeout=20)
        with response:
            content = response.read()
    except HTTPError as error:
        if error.code == 404:
            return None
        raise HubError(error, refused=error.code in (401, 403)) from None
    except (OSError, ValueError, HTTPException) as error:
        raise HubError(error) from None
    if stated and not has_hash(content, stated):
        raise HubError(f"{file} was damaged in transit: its hash does not match the hub's, {stated}; try again")
    return content


def hub_request(url: str, *, byte_range: tuple[int, int] | None = None) -> Request:
    """A request to the hub for all bytes or for [start, end), with the user's token if there is one."""
    from huggingface_hub import get_token

    request = Request(url)
    token = get_token()
    if token:  # must not be sent to the storage that the hub redirects to
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    if byte_range:
        request.add_header("Range", f"bytes={byte_range[0]}-{byte_range[1] - 1}")
    return request


def open_url(request: Request, *, timeout: float) -> tuple[HTTPResponse, str | None]:
    """The response to `request`, and the hash of the whole file if the hub states one.

    The hash is in the hub's redirect; the storage that it redirects to has a different kind of ETag.
    """
    redirects = _Redirects()
    response = build_opener(redirects).open(request, timeout=timeout)
    etag = redirects.linked_etag or response.headers.get("X-Linked-ETag")
    if etag is None and urlsplit(response.url).netloc == urlsplit(request.full_url).netloc:
        etag = response.headers.get("ETag")
    match = _HASH.fullmatch(etag or "")
    return response, match[1] if match else None


def has_hash(content: bytes, stated: str) -> bool:
    """Whether `stated` is the content's SHA-256 (large files) or its git SHA-1 (other files)."""
    if len(stated) == 64:
        return hashlib.sha256(content).hexdigest() == stated
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == stated


class _Redirects(HTTPRedirectHandler):
    """Follow redirects, and remember the hash stated by one of them."""

    linked_etag: str | None = None

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        self.linked_etag = self.linked_etag or headers.get("X-Linked-ETag")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _cached_content(path: Path) -> bytes:
    """The content of a file in Hugging Face's cache, where files are links to blobs named after their hash."""
    content = path.read_bytes()
    match = _HASH.fullmatch(path.resolve().name)
    if match and not has_hash(content, match[1]):
        raise HubError(f"{path} in Hugging Face's cache is damaged; delete {path.resolve()} and run the command again")
    return content
