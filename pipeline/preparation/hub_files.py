"""A dataset on the Hugging Face hub as Parquet shards, read in ranges without downloading whole files."""

from collections.abc import Iterator
from fnmatch import fnmatch
from functools import partial
from typing import Any
from urllib.parse import quote

from pipeline.preparation.downloads import RemoteFile, Retries, Server, ServerError
from pipeline.preparation.input_shards import ParquetShard, Rejection
from utils.errors import PipelineError, did_you_mean


def hub_server(retries: Retries) -> Server:
    """The hub at `HF_ENDPOINT`."""
    from huggingface_hub.constants import ENDPOINT

    return Server(ENDPOINT.rstrip("/"), retries)


def hub_shards(server: Server, name: str, subset: str, reject: Rejection) -> list[ParquetShard]:
    """The Parquet files of `subset`, sorted by name, one shard each.

    Raises:
        PipelineError: no such dataset or subset, no Parquet files, or the hub cannot be reached.
    """
    info = _dataset_info(server, name)
    revision = info["sha"]
    patterns = _patterns(info, name, subset)
    files = {}
    for pattern in patterns:
        for entry in _tree(server, name, revision, pattern):
            if entry["type"] == "file" and fnmatch(entry["path"], pattern) and entry["path"].endswith(".parquet"):
                files[entry["path"]] = entry
    if not files:
        raise PipelineError(
            f"no Parquet files found for {name} ({subset}) at {', '.join(patterns)}; download it and use --source DIR"
        )
    return [_shard(server, name, revision, files[path], reject) for path in sorted(files)]


def _dataset_info(server: Server, name: str) -> dict[str, Any]:
    try:
        info, _ = server.json(f"/api/datasets/{name}", first=True)
    except ServerError as error:
        raise PipelineError(f"{error}; check the network, or use downloaded files with --source DIR") from None
    if not isinstance(info, dict) or "sha" not in info:
        raise PipelineError(f"{server.endpoint} did not return a description of {name}; check HF_ENDPOINT")
    return info


def _patterns(info: dict[str, Any], name: str, subset: str) -> list[str]:
    """The files of the training split of `subset` according to the dataset card."""
    configs = {config["config_name"]: config for config in (info.get("cardData") or {}).get("configs", [])}
    if not configs:
        return ["*.parquet"]
    if subset not in configs:
        near = did_you_mean(subset, configs)
        raise PipelineError(f"{name} has no configuration {subset!r}{near}; set fineweb.subset")
    splits = configs[subset]["data_files"]
    if isinstance(splits, str):
        return [splits]
    train = next((split for split in splits if split["split"] == "train"), splits[0])
    return [train["path"]] if isinstance(train["path"], str) else list(train["path"])


def _tree(server: Server, name: str, revision: str, pattern: str) -> Iterator[dict[str, Any]]:
    """The files below the folder in `pattern` before its first wildcard."""
    folder = pattern.partition("*")[0].rpartition("/")[0]
    page: str | None = f"/api/datasets/{name}/tree/{revision}/{quote(folder)}?recursive=true"
    while page:
        entries, page = server.json(page)
        if not isinstance(entries, list):
            raise PipelineError(f"{server.endpoint} did not return a file list for {name}; check HF_ENDPOINT")
        yield from entries


def _shard(server: Server, name: str, revision: str, entry: dict[str, Any], reject: Rejection) -> ParquetShard:
    path = f"/datasets/{name}/resolve/{revision}/{quote(entry['path'])}"
    # A new commit elsewhere in the repository changes the revision, but not the file's own hash.
    content = (entry.get("lfs") or {}).get("oid") or entry.get("oid", "")
    open_file = partial(RemoteFile, server, path, entry["size"], content)
    return ParquetShard(entry["path"], entry["size"], content, open_file, reject)
