"""Whether a model may have been trained on what it is benchmarked with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.items import BenchmarkSet

CLEAN, NOT_CHECKED, CONTAMINATED = "clean", "not checked", "contaminated"


def contamination(content: Mapping[str, Any], data: BenchmarkSet) -> str:
    """`clean` where the training data was decontaminated against exactly these files, else `not checked`.

    WikiText's articles are Wikipedia's, so a model trained on Wikipedia is marked unless its data was decontaminated.

    Args:
        content: a checkpoint's, without its tensors; of an unknown model, an empty one.
    """
    if data.files and _stamped_files(_metadata(content), data.name) >= set(data.files.values()):
        return CLEAN
    source = content.get("config", {}).get("dataset", {}).get("source")
    if data.name == "wikitext" and source == "wikipedia":
        return f"{CONTAMINATED}: trained on Wikipedia, which has WikiText's articles"
    return NOT_CHECKED


def _stamped_files(metadata: Mapping[str, Any], name: str) -> set[str]:
    sets = (metadata.get("decontamination") or {}).get("sets", [])
    return {sha256 for each in sets if each["name"] == name for sha256 in each["files"].values()}


def _metadata(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the training data's metadata says of itself, if that dataset is still here and still the same."""
    data = content.get("data", {})
    if "decontamination" in data:
        return data
    directory = data.get("directory")
    path = Path(directory, "metadata.json") if directory else None
    if path is None or not path.exists():
        return {}
    from utils.token_store import TokenDataset

    if TokenDataset.open(path.parent).fingerprint != data.get("fingerprint"):
        return {}
    return json.loads(path.read_text(encoding="utf-8"))
