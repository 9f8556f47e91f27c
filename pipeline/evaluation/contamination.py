"""Check whether a model may have been trained on the benchmark sets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.evaluation.benchmark_sets import BenchmarkSet

CLEAN = "clean"
NOT_CHECKED = "not checked"
CONTAMINATED = "contaminated"


def contamination(content: Mapping[str, Any], data: BenchmarkSet) -> str:
    """`clean` if all training data was decontaminated against exactly these files, otherwise what is known.

    WikiText consists of Wikipedia articles, so models trained on Wikipedia are marked unless the data was
    decontaminated.

    Args:
        content: the content of a checkpoint without its tensors; empty for an unknown model.

    Raises:
        PipelineError: the pretraining data exists but cannot be read.
    """
    if data.files and _stamped_files(_metadata(_pretraining(content)), data.name) >= set(data.files.values()):
        unchecked = _unchecked_training(content, data)
        return f"pretraining data {CLEAN}, {unchecked} {NOT_CHECKED}" if unchecked else CLEAN
    source = ((content.get("config") or {}).get("dataset") or {}).get("source")
    if data.name == "wikitext" and source == "wikipedia":
        return f"{CONTAMINATED}: trained on Wikipedia, the source of WikiText"
    return NOT_CHECKED


def _pretraining(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record of the pretraining data in the checkpoint or its base model."""
    data = _pretrained(content).get("data") or {}
    return {} if "training_conversations" in data else data  # if fine-tuned twice, only the last base is recorded


def _pretrained(content: Mapping[str, Any]) -> Mapping[str, Any]:
    return (content.get("base") or {}) if content.get("chat_template") else content


def _unchecked_training(content: Mapping[str, Any], data: BenchmarkSet) -> str:
    """Other training data of the model that was not decontaminated against these files."""
    conversations = (content.get("data") or {}) if content.get("chat_template") else None
    is_checked = conversations is None or _stamped_files(conversations, data.name) >= set(data.files.values())
    parts = [] if is_checked else ["conversations"]
    parts += ["training before --init-from"] if _pretrained(content).get("init_from") else []
    return " and ".join(parts)


def _stamped_files(metadata: Mapping[str, Any], name: str) -> set[str]:
    sets = (metadata.get("decontamination") or {}).get("sets", [])
    return {sha256 for stamped in sets if stamped["name"] == name for sha256 in stamped["files"].values()}


def _metadata(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The metadata of the training data, if the dataset still exists unchanged."""
    if "decontamination" in data:
        return data
    directory = data.get("directory")
    if not directory or not Path(directory, "metadata.json").exists():
        return {}
    from pipeline.formats.token_dataset import TokenDataset

    dataset = TokenDataset.open(directory)
    return dataset.metadata if dataset.fingerprint == data.get("fingerprint") else {}
