"""One file from the Hugging Face hub."""

from pathlib import Path


class HubError(Exception):
    """The file could not be fetched; `refused` where the hub wants a login, or its terms accepted."""

    def __init__(self, reason: object, *, refused: bool = False) -> None:
        super().__init__(str(reason).strip().partition("\n")[0])
        self.refused = refused


def download(repository: str, file: str, *, repo_type: str | None = None) -> bytes | None:
    """The content of `file`, from Hugging Face's cache where it is there; None where the repository has no such file.

    One attempt: hf_hub_download would try for half a minute before it said that there is no network.

    Raises:
        HubError: no network, no such repository, no permission.
    """
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    from huggingface_hub import get_token, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_OFFLINE

    try:
        cached = try_to_load_from_cache(repository, file, repo_type=repo_type)
        if isinstance(cached, str):
            return Path(cached).read_bytes()
        if HF_HUB_OFFLINE:
            raise HubError("HF_HUB_OFFLINE is set")
        request = Request(hf_hub_url(repository, file, repo_type=repo_type))
        if get_token():  # not sent on to the server that the hub redirects to
            request.add_unredirected_header("Authorization", f"Bearer {get_token()}")
        with urlopen(request, timeout=20) as response:
            return response.read()
    except HTTPError as error:
        if error.code == 404:
            return None
        raise HubError(error, refused=error.code in (401, 403)) from None
    except (OSError, ValueError, HTTPException) as error:
        raise HubError(error) from None
