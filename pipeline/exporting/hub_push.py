"""Upload an exported folder to the Hugging Face hub as one commit; a second upload sends nothing that is there already.

check_push("me/my-model")                           # before an export that may take minutes
result = push_folder(Path("exported/my_model"), "me/my-model", private=True)
print(result.url, result.is_new)
"""

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.exporting.earlier_export import EXPORTED_NAMES, require_export
from utils.checksums import check_sums
from utils.errors import PipelineError


@dataclass(frozen=True)
class Pushed:
    """The repository's address, and whether anything in it has changed."""

    url: str
    is_new: bool


def check_push(repository: str) -> None:
    """Raise PipelineError if the name is invalid, there is no login, or the hub is switched off."""
    from huggingface_hub import get_token
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise PipelineError(
            f"--push {repository}: expected USER/NAME with at most 96 letters, digits, '-', '_' and '.' "
            "(no '-' or '.' at either end)"
        ) from None
    if HF_HUB_OFFLINE:
        raise PipelineError("--push needs the Hugging Face hub, but HF_HUB_OFFLINE is set; unset it")
    if not get_token():
        raise PipelineError("--push needs a Hugging Face token with write access; run: hf auth login, or set HF_TOKEN")


def push_folder(directory: Path, repository: str, *, private: bool = False) -> Pushed:
    """Create the repository if there is none, and upload the export in `directory`.

    Args:
        private: create a private repository.

    Raises:
        PipelineError: the folder is not an intact export, or the hub refuses it or cannot be reached.
    """
    check_push(repository)
    require_export(directory)
    check_sums(directory, remedy="export it again with --overwrite")
    try:
        return _push(directory, repository, private=private)
    except PipelineError:
        raise
    except Exception as error:
        again = f"python3 export.py --output {directory} --push {repository}{' --private' if private else ''}"
        problem = f"--push {repository}: {_problem(error)}"
        raise PipelineError(f"{problem}; the export is kept, upload it again with: {again}") from error


def _push(directory: Path, repository: str, *, private: bool) -> Pushed:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    address = api.create_repo(repository, private=private or None, exist_ok=True)
    before = api.model_info(address.repo_id)
    if private and not before.private:
        raise PipelineError(
            f"--private: {address} already exists and is public; make it private in its settings, or drop --private"
        )
    files = [CommitOperationAdd(name, directory / name) for name in EXPORTED_NAMES if (directory / name).is_file()]
    commit = api.create_commit(address.repo_id, files, commit_message=f"Upload {directory.name}")
    return Pushed(str(address), is_new=commit.oid != before.sha)


def _problem(error: Exception) -> str:
    """The reason in one line, with the remedy for a refused login."""
    from huggingface_hub.errors import HfHubHTTPError

    if not isinstance(error, HfHubHTTPError):
        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        return f"the upload to {endpoint} failed ({' '.join(str(error).split()) or type(error).__name__})"
    status = error.response.status_code
    said = f"{status} {' '.join((error.server_message or error.response.reason_phrase).split())}"
    if status == 401:
        return f"the hub does not accept the token ({said}); log in again with: hf auth login"
    if status == 403:
        return f"the token may not write there ({said}); use one with write access, or a name of your own"
    return f"the hub refused the upload ({said})"
