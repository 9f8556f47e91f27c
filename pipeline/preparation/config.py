"""The `dataset` and `fineweb` sections of the configuration: token datasets and the source of FineWeb."""

from dataclasses import dataclass
from pathlib import Path

from utils.options import option


@dataclass(frozen=True)
class DatasetConfig:
    """Token datasets: which one to use, and how to window and split it."""

    source: str = option("wikipedia", "the dataset that training uses", choices=("wikipedia", "fineweb", "custom"))
    wikipedia_test_dir: Path = option(Path("data/tokenized_datasets/codellama_test_dataset"), "Wikipedia, test mode")
    wikipedia_full_dir: Path = option(Path("data/tokenized_datasets/codellama_full_dataset"), "Wikipedia, complete")
    fineweb_test_dir: Path = option(Path("data/tokenized_datasets/fineweb_test_dataset"), "FineWeb, test mode")
    fineweb_full_dir: Path = option(Path("data/tokenized_datasets/fineweb_full_dataset"), "FineWeb, complete")
    custom_dir: Path = option(Path("data/tokenized_datasets/custom_dataset"), "your own text, both modes")
    window: int = option(512, "tokens in a training window", minimum=2)
    overlap: float = option(0.5, "share of a window that is repeated in the next one", minimum=0.0, maximum=0.95)
    val_split: float = option(
        0.1, "share of the stream held out for validation, in contiguous blocks", above=0.0, maximum=0.5
    )
    seed: int = option(42, "seed for choosing the validation blocks", minimum=0)
    isolate_documents: bool = option(False, "no attention between documents in the same window; slower on the CPU")
    parts: int = option(
        4, "load training tokens to the device in this many parts; more if two do not fit in its memory", minimum=1
    )
    max_files: int = option(38, "maximum number of token files in a dataset", minimum=1)
    file_tokens: int = option(1 << 24, "minimum number of tokens in a file; more if `max_files` requires it", minimum=1)
    test_documents: int = option(10_000, "articles or documents used with `--test`", minimum=1)
    batch_size: int = option(10_000, "documents tokenized in one batch", minimum=1)
    workers: int | None = option(None, "processes that prepare a dataset; null: one per core", minimum=1)
    deduplicate: bool = option(True, "drop documents that repeat an earlier one")
    near_duplicates: float | None = option(
        None,
        "drop documents with at least this Jaccard similarity to an earlier one, for example 0.8; null: keep them",
        minimum=0.5,
        maximum=1.0,
    )
    decontaminate: Path | None = option(
        None, "evaluation files; documents that share a 13-gram with them are dropped; null: skip the check"
    )

    dumps_url: str = option(
        "https://dumps.wikimedia.org", "where `--download` gets Wikipedia's dumps: this server or a mirror of it"
    )

    @property
    def stride(self) -> int:
        """Tokens from the start of one window to the start of the next."""
        return max(1, round(self.window * (1 - self.overlap)))

    def directory(self, *, test: bool, source: str | None = None) -> Path:
        """The folder of `source` (default: the configured one) in test or full mode."""
        source = source or self.source
        return self.custom_dir if source == "custom" else getattr(self, f"{source}_{'test' if test else 'full'}_dir")


@dataclass(frozen=True)
class FineWebConfig:
    """What `fineweb_prep.py` reads, and what it keeps."""

    name: str = option("HuggingFaceFW/fineweb", "dataset on the Hugging Face hub")
    subset: str = option("sample-10BT", "its configuration")
    min_language_score: float = option(0.65, "documents with a lower score are dropped", minimum=0.0, maximum=1.0)
    min_tokens: int = option(100, "documents with fewer tokens are dropped", minimum=0)
    quality_rules: tuple[str, ...] = option(
        (), "additional filters: `gopher_quality`, `gopher_stop_words`, `gopher_repetition`, `c4`"
    )
    workers: int | None = option(
        None,
        "streaming processes; null: one with read-ahead, or one per core with `--source`",
        minimum=1,
    )
    retries: int = option(
        8,
        "give up after this many consecutive failures, in `dataset_prep.py --download` too; finished parts are kept",
        minimum=1,
    )
    retry_seconds: float = option(1.0, "wait after the first failure; doubles each time, up to a minute", minimum=0.0)
