"""Check the existing files of the route: tokenizer, token datasets, checkpoints, conversations.

Only names, sizes, headers and the index of zip files are read; the findings state the cost of a full check.
"""

import json
import zipfile
from pathlib import Path

from pipeline.configuration import Config
from pipeline.doctor.disk import METADATA_NAME, cleaned_files, is_complete
from pipeline.doctor.findings import Finding, from_error, note, ok, problem
from pipeline.doctor.hub import has_conversations
from pipeline.doctor.packages import shortened
from pipeline.formats.raw_files import format_of
from pipeline.formats.run_folders import list_runs
from pipeline.quickstart_hint import or_quickstart
from utils.errors import PipelineError
from utils.terminal import format_bytes, format_count, short_path

_MOST_CHECKPOINTS = 200


def check_tokenizer(config: Config) -> list[Finding]:
    """Check the tokenizer's checksum, and its size against the model's."""
    from pipeline.tokenization.wikipedia_tokenizer import load_tokenizer

    directory = config.paths.tokenizer_dir
    if not any(directory.glob("tokenizer.*")):
        return [
            note(
                "tokenizer",
                f"not in {short_path(directory)} yet",
                f"run: python3 main.py tokenize{or_quickstart(directory)}",
            )
        ]
    tokenizer = load_tokenizer(directory)
    found, expected = tokenizer.vocab_size, config.model.vocab_size
    if found != expected:
        remedy = f"--set model.vocab_size={found}, or --set paths.tokenizer_dir=DIR"
        sizes = f"{short_path(directory)} has {found:,} pieces; model.vocab_size is {expected:,}"
        return [problem("tokenizer", sizes, remedy)]
    findings = [ok("tokenizer", f"{tokenizer.name}, {found:,} pieces, intact")]
    dataset = config.dataset.directory(test=False)
    made_by = _fingerprint_of(dataset) if is_complete(dataset) else None
    if made_by not in (None, tokenizer.fingerprint):
        tokenizers = f"{short_path(directory)} is not the tokenizer that made {short_path(dataset)}"
        text = f"{tokenizers}, so training cannot print samples"
        findings.append(note("tokenizer", text, "set the right folder: --set paths.tokenizer_dir=DIR"))
    return findings


def _fingerprint_of(dataset: Path) -> str | None:
    """The fingerprint of the tokenizer of a complete dataset, or None if it is not recorded."""
    try:
        content = json.loads((dataset / METADATA_NAME).read_text(encoding="utf-8"))
        return str(content["tokenizer"]["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # reported by the check of the dataset


def check_datasets(config: Config) -> list[Finding]:
    """Check the dataset for training, and the one for ``--test`` if it exists."""
    full = config.dataset.directory(test=False)
    test = config.dataset.directory(test=True)
    findings = [_dataset(config, full) if is_complete(full) else _dataset_to_come(config, full)]
    if test != full and is_complete(test):
        findings.append(_dataset(config, test))
    return findings


def _dataset(config: Config, directory: Path) -> Finding:
    from pipeline.formats.token_dataset import TokenDataset

    stage = "fineweb" if config.dataset.source == "fineweb" else "prepare"
    try:
        dataset = TokenDataset.open(directory, command=f"python3 main.py {stage}")
    except PipelineError as error:
        return from_error("dataset", error)
    size = dataset.metadata.get("vocab_size", config.model.vocab_size)
    if size != config.model.vocab_size:
        expected = f"model.vocab_size is {config.model.vocab_size:,}"
        found = f"{short_path(directory)} was made with {size:,} pieces, but {expected}"
        return problem("dataset", found, f"--set model.vocab_size={size}, or use another dataset")
    tokens = f"{format_count(dataset.num_tokens)} tokens in {len(dataset.files)} files of the right size"
    full_check = f"python3 main.py prepare --inspect {short_path(directory)}"
    return ok(
        "dataset",
        f"{directory.name}, {tokens}; a full check reads {format_bytes(2 * dataset.num_tokens)}: {full_check}",
    )


def _dataset_to_come(config: Config, directory: Path) -> Finding:
    """The next command towards a complete dataset."""
    name = f"{short_path(directory)} is incomplete"
    if config.dataset.source == "fineweb":
        return note("dataset", name, "run: python3 main.py fineweb")
    if cleaned_files(config):
        return note("dataset", name, "run: python3 main.py prepare")
    raw = config.paths.raw_dir
    if raw.is_dir() and any(format_of(path) for path in raw.rglob("*")):
        return note("dataset", name, "run: python3 main.py cleanup, then: python3 main.py prepare")
    fetch = f"run: python3 main.py prepare --download simplewiki, or put raw files into {short_path(raw)}"
    remedy = f"{fetch}, or: --set dataset.source=fineweb{or_quickstart(directory)}"
    return problem("dataset", f"{name}, and there is no text to prepare it from", remedy)


def check_checkpoints(config: Config) -> list[Finding]:
    """Check the index of every checkpoint, which truncated files lack."""
    folder = config.paths.checkpoint_dir
    runs = list_runs(folder)
    paths = [path for run in runs for path in run.checkpoints][:_MOST_CHECKPOINTS]
    if not paths:
        return [ok("checkpoints", f"none in {short_path(folder)} yet")]
    damaged = [path for path in paths if not _is_whole(path)]
    if damaged:
        names = shortened(str(path.relative_to(folder)) for path in damaged)
        return [note("checkpoints", f"truncated: {names}", "restore them from a copy, or delete them")]
    size = format_bytes(sum(path.stat().st_size for path in paths))
    count = f"{len(paths)} in {len(runs)} runs" if len(runs) > 1 else f"{len(paths)} in one run"
    return [ok("checkpoints", f"{count}, complete; a full check reads {size} and happens whenever a stage loads one")]


def _is_whole(path: Path) -> bool:
    """Whether the file ends with a valid zip index."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = path.stat().st_size
            members = archive.infolist()
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
        return False
    return bool(members) and all(member.header_offset + member.compress_size <= size for member in members)


def check_conversations(config: Config) -> list[Finding]:
    """Check the data for instruction tuning, which the route to a pretrained model does not need."""
    folder = config.paths.post_training_dir
    if is_complete(folder):
        return [ok("tuning data", f"tokenized in {short_path(folder)}")]
    if has_conversations(config):
        found = f"LIMA is in {short_path(folder)}, but not tokenized yet"
        return [note("tuning data", found, "run: python3 main.py lima")]
    return [note("tuning data", f"none in {short_path(folder)}; only sft needs it", "run: python3 main.py lima")]
