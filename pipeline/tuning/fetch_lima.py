"""Download LIMA, the conversations that post-training uses by default, from the Hugging Face hub."""

from pathlib import Path

from pipeline.tuning.config import LIMA
from utils.errors import PipelineError
from utils.files import whole_file
from utils.hub_connection import HubError, download


def fetch_lima(path: Path) -> Path:
    """Download LIMA's training split from the hub to `path` unless the file exists."""
    if path.is_file():
        return path
    print(f"downloading {LIMA} from the Hugging Face hub …")
    try:
        content = download(LIMA, "train.jsonl", repo_type="dataset")
    except HubError as error:
        problem = "is gated" if error.refused else f"could not be downloaded ({error}); it is gated"
        raise _no_access(problem) from None
    if content is None:
        raise _no_access("no longer has a train.jsonl")
    with whole_file(path) as file:
        file.write(content)
    return path


def _no_access(problem: str) -> PipelineError:
    return PipelineError(
        f"{LIMA} {problem}: accept its terms at https://huggingface.co/datasets/{LIMA} and log in with: hf auth login "
        f"(or set HF_TOKEN); or prepare your own conversations with: --input FILE.jsonl"
    )
