"""The files that get a flipped bit, and the stages that read them next."""

import os
from dataclasses import dataclass
from pathlib import Path
from random import Random


@dataclass(frozen=True)
class Flip:
    """A bit flip in one of the files matching `pattern` before `stage` reads it.

    Args:
        kind: its name in the table.
        interrupted_at: first kill the stage at the last operation whose description contains this.
        ignored: outputs that may contain the flip because they are the flipped file itself.
    """

    kind: str
    stage: str
    pattern: str
    interrupted_at: str | None = None
    ignored: tuple[str, ...] = ()


_PARTS_DONE = "open dataset/.tokens_0.npy"
_MIDDLE_OF_PARTS = "truncate dataset/unfinished/shard_000000.index"
_MIDDLE_OF_TRAINING = "checkpoint_step_4.pt"
_MIDDLE_OF_TUNING = "checkpoint_epoch_1.pt"
_LOG = ("log", "run/loss_curve.png")

FLIPS = (
    Flip("cleaned text", "preparation", "cleaned/cleaned_*.txt"),
    Flip("cleaning report", "preparation", "cleaned/cleaning_report.json"),
    Flip("cleaning report, resumed", "cleaning", "cleaned/cleaning_report.json", "fsync cleaned/.cleaned_b.txt"),
    Flip("tokenizer.json", "preparation", "tokenizer/tokenizer.json"),
    Flip("part, begun", "preparation", "dataset/unfinished/*", _MIDDLE_OF_PARTS),
    Flip("part, done", "preparation", "dataset/unfinished/*", _PARTS_DONE),
    Flip("token file", "training", "dataset/tokens_*.npy"),
    Flip("dataset's metadata.json", "training", "dataset/metadata.json"),
    Flip("checkpoint, resumed", "training", "checkpoints/*/checkpoint_latest.pt", _MIDDLE_OF_TRAINING),
    Flip("log, resumed", "training", "logs/raw_metrics/*.jsonl", _MIDDLE_OF_TRAINING, _LOG),
    Flip("conversations' arrays", "fine-tuning", "conversations/*.npy"),
    Flip("conversations' metadata.json", "fine-tuning", "conversations/metadata.json"),
    Flip("base checkpoint", "fine-tuning", "checkpoints/run_*/checkpoint_latest.pt"),
    Flip("tuned checkpoint, resumed", "fine-tuning", "checkpoints/sft_*/checkpoint_latest.pt", _MIDDLE_OF_TUNING),
    Flip("tokenizer.json", "fine-tuning", "tokenizer/tokenizer.json"),
    Flip("tuned checkpoint", "export", "checkpoints/sft_*/checkpoint_latest.pt"),
    Flip("model.safetensors", "import", "exported/folder/model.safetensors"),
    Flip("other files of the folder", "import", "exported/folder/*.json"),
)


def flip_bit(root: Path, flip: Flip, seed: int) -> str:
    """Flip one bit in one file, both chosen with `seed`; returns a description."""
    random = Random(f"{flip.kind} {seed}")
    paths = sorted(path for path in root.glob(flip.pattern) if path.is_file() and path.stat().st_size)
    if not paths:
        raise FileNotFoundError(f"{flip.kind}: there is no {flip.pattern}")
    path = random.choice(paths)
    content = bytearray(path.read_bytes())
    bit = random.randrange(len(content) * 8)
    content[bit // 8] ^= 1 << bit % 8
    stat = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # decay does not change timestamps
    return f"{path.relative_to(root)}, byte {bit // 8}, bit {bit % 8}"
