"""The stages under test: the command that a user would type, and the expected output."""

import hashlib
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.formats.checkpoint import read_checkpoint
from pipeline.formats.cleaned_text import REPORT_NAME
from pipeline.formats.run_folders import list_runs
from tests.faults.world import PIECES
from utils.cli import exit_code_of
from utils.errors import PipelineError

Digest = dict[str, str]


@dataclass(frozen=True)
class Stage:
    """A stage: module, command line in the folder `root`, and the digest of its output."""

    name: str
    module: str
    arguments: Callable[[Path], list[str]]
    digest: Callable[[Path], Digest]
    imports: tuple[str, ...] = ()  # at run time

    def main(self, root: Path) -> int:
        """Run it in this process."""
        module = importlib.import_module(self.module)
        return module.main(["--config", str(root / "config.json"), *self.arguments(root)])

    def exit_code(self, root: Path) -> int:
        return exit_code_of(lambda: self.main(root))


def import_stages(last: Stage) -> None:
    """Import everything that the stages up to `last` import at run time, so that forked processes need not."""
    stages = STAGES[: STAGES.index(last) + 1]
    modules = {*(stage.module for stage in stages), *(name for stage in stages for name in stage.imports)}
    for name in sorted(modules):
        importlib.import_module(name)
    torch.set_num_threads(1)
    _replace_what_takes_long()


def _replace_what_takes_long() -> None:
    """Replace plots with the text of their points, the commit with a constant, and the cleaner's processes with
    calls."""
    from pipeline.cleaning import run as cleaning
    from pipeline.jobs.local_processes import ThisProcess
    from pipeline.training import curves, run_info
    from utils.files import write_text

    def draw_runs(path: Path, runs: Mapping[str, curves.Lines]) -> None:
        points = [[curves.curve(lines, key) for key in ("train_loss_smoothed", "val_loss")] for lines in runs.values()]
        write_text(path, json.dumps(points))

    curves.draw_runs = draw_runs
    run_info._git_commit = lambda: "none"
    cleaning.LocalProcesses = lambda workers, folder: ThisProcess()


# ---- comparison


def files_digest(*names: str) -> Callable[[Path], Digest]:
    """Every file below the folders `names` in the root, including hidden ones."""

    def digest(root: Path) -> Digest:
        paths = [path for name in names for path in sorted((root / name).rglob("*")) if path.is_file()]
        return {str(path.relative_to(root)): _file_digest(path, root) for path in paths}

    return digest


def run_digest(prefix: str) -> Callable[[Path], Digest]:
    """The files of the newest run whose folder starts with `prefix`, and its log without times."""

    def digest(root: Path) -> Digest:
        run = newest_run(root, prefix)
        if run is None:
            return {}
        found = {}
        for path in sorted(run.rglob("*")):
            found[f"run/{path.name}"] = _file_digest(path, root, run.name)
        log = root / "logs" / "raw_metrics" / f"{run.name}.jsonl"
        return {**found, "log": _sha256("\n".join(_lasting_lines(log, root)).encode())}

    return digest


def import_digest(root: Path) -> Digest:
    """The files of the imported model."""
    paths = sorted((root / "imported").glob("*"))
    return {path.name: _file_digest(path, root, "imported") for path in paths}


def newest_run(root: Path, prefix: str) -> Path | None:
    """The folder of the newest run that has a checkpoint."""
    runs = [run.directory for run in list_runs(root / "checkpoints") if run.directory.name.startswith(prefix)]
    return runs[0] if runs else None


def _file_digest(path: Path, root: Path, run: str = "none") -> str:
    if path.suffix == ".pt":
        try:
            content = read_checkpoint(path)
            content.pop("unwritten_log", None)  # lines not written on a full disk, kept for the next run
            return _sha256(_plain(content, root, run).encode())
        except PipelineError as error:
            return str(error).partition(":")[2]
    if path.name == REPORT_NAME:
        content = json.loads(path.read_text())
        for entry in (content, *content["files"].values()):
            entry.pop("checksum", None)
            entry.pop("modified", None)  # a time
        return _sha256(json.dumps(content).encode())
    if path.name == "sft_config.json":
        content = json.loads(path.read_text())
        for key in ("commands", "before"):  # a resumed run adds its command and has the loss before the first step
            content.pop(key, None)
        return _sha256(_plain(content, root, run).encode())
    return _sha256(path.read_bytes())


def _plain(value: object, root: Path, run: str) -> str:
    """A text that is equal for equal content, independent of the root and the name of the run's folder."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{tuple(value.shape)}{_sha256(value.contiguous().numpy().tobytes())}"
    if isinstance(value, np.ndarray):
        return _plain(torch.from_numpy(value), root, run)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_plain(item, root, run)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_plain(item, root, run) for item in value) + "]"
    return repr(value).replace(str(root), "ROOT").replace(run, "RUN")


def _lasting_lines(log: Path, root: Path) -> Iterator[str]:
    if not log.exists():
        return
    for text in log.read_text(encoding="utf-8").split("\n"):
        line = text
        with suppress(ValueError):
            content = json.loads(text)
            if content.get("event") == "resume":
                continue
            timed = ("time", "mfu")
            kept = {key: value for key, value in content.items() if key not in timed and not key.startswith("speed_")}
            line = json.dumps(kept)
        yield line.replace(str(root), "ROOT")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---- the stages


def _train(root: Path) -> list[str]:
    return ["--resume", "latest"] if newest_run(root, "run_") else []


def _tune(root: Path) -> list[str]:
    return ["--resume", "latest"] if newest_run(root, "sft_") else ["--checkpoint", "latest"]


def _vocabulary(root: Path) -> list[str]:
    cleaned = [str(root / "cleaned" / f"cleaned_{name}.txt") for name in ("a", "b")]
    return ["--train", *cleaned, "--vocab-size", str(PIECES), "--output", str(root / "tokenizer")]


def _export(root: Path) -> list[str]:
    outputs = ["--output", str(root / "exported" / "folder"), "--gguf", str(root / "exported" / "model.gguf")]
    return ["--checkpoint", "latest", *outputs, "--overwrite"]


def _import(root: Path) -> list[str]:
    return ["--import-hf", str(root / "exported" / "folder"), "--output", str(root / "imported")]


_MODELS = ("transformers.models.llama.modeling_llama", "transformers.models.auto.modeling_auto", "gguf")
_TRAINING = ("torch.utils.tensorboard", "pipeline.training.trainer", "model", "dataloader")
_EXPORTING = (
    tuple(f"pipeline.exporting.{name}" for name in ("hf_check", "hf_folder", "gguf_check", "gguf_file")) + _MODELS
)
_BULK = ("pipeline.tokenization.bulk_encoding",)

STAGES = (
    Stage("cleaning", "cleaner", lambda root: [], files_digest("cleaned")),
    Stage("tokenizer", "tokenizer", _vocabulary, files_digest("tokenizer")),
    Stage("preparation", "dataset_prep", lambda root: [], files_digest("dataset"), _BULK),
    Stage("training", "train", _train, run_digest("run_"), _TRAINING),
    Stage(
        "conversations",
        "lima_tokenizer",
        lambda root: ["--input", str(root / "chats.jsonl")],
        files_digest("conversations"),
    ),
    Stage("fine-tuning", "post_training", _tune, run_digest("sft_"), _TRAINING),
    Stage("export", "export", _export, files_digest("exported"), _EXPORTING),
    Stage("import", "export", _import, import_digest),
)
