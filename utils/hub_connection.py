"""The Hugging Face hub: one file of it, and what all requests share: the token, redirects and the stated hash."""

import hashlib
import re
from http.client import HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

_HASH = re.compile(r'(?:W/)?"?([0-9a-f]{64}|[0-9a-f]{40})"?')


class HubError(Exception):
    """The file could not be fetched; `refused` if the hub asks for a login or for its terms to be accepted."""

    def __init__(self, reason: object, *, refused: bool = False) -> None:
        super().__init__(str(reason).strip().partition("\n")[0])
        self.refused = refused


def download(repository: str, file: str, *, repo_type: str | None = None) -> bytes | None:
    """The content of `file`, from Hugging Face's cache if it is there; None if the repository has no such file.

    One attempt: hf_hub_download would try for half a minute before it said that there is no network.

    Raises:
        HubError: no network, no such repository, no permission, content whose hash is not the hub's.
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
        raise HubError(f"{file} arrived damaged: its hash is not {stated}, as the hub says; try again")
    return content


def hub_request(url: str, *, byte_range: tuple[int, int] | None = None) -> Request:
    """A request to the hub with the user's token, if there is one, for all bytes or for [start, end) of them."""
    from huggingface_hub import get_token

    request = Request(url)
    token = get_token()
    if token:  # not for the storage that the hub redirects to
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    if byte_range:
        request.add_header("Range", f"bytes={byte_range[0]}-{byte_range[1] - 1}")
    return request


def open_url(request: Request, *, timeout: float) -> tuple[HTTPResponse, str | None]:
    """The answer to `request`, and the hash of the whole file that the hub states, if it does.

    The hub names it in the answer that redirects to its storage, which has ETags of another kind.
    """
    redirects = _Redirects()
    response = build_opener(redirects).open(request, timeout=timeout)
    etag = redirects.linked_etag or response.headers.get("X-Linked-ETag")
    if etag is None and urlsplit(response.url).netloc == urlsplit(request.full_url).netloc:
        etag = response.headers.get("ETag")
    match = _HASH.fullmatch(etag or "")
    return response, match[1] if match else None


def has_hash(content: bytes, stated: str) -> bool:
    """Whether `stated` is the content's SHA-256 (large files) or the SHA-1 that git gives it (the others)."""
    if len(stated) == 64:
        return hashlib.sha256(content).hexdigest() == stated
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == stated


class _Redirects(HTTPRedirectHandler):
    """Follows redirects and keeps the hash that one of them states."""

    linked_etag: str | None = None

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        self.linked_etag = self.linked_etag or headers.get("X-Linked-ETag")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _cached_content(path: Path) -> bytes:
    """The content of a file in Hugging Face's cache, which calls it by its hash and links to it."""
    content = path.read_bytes()
    match = _HASH.fullmatch(path.resolve().name)
    if match and not has_hash(content, match[1]):
        raise HubError(f"{path} in Hugging Face's cache is damaged; delete {path.resolve()} and fetch it again")
    return content
