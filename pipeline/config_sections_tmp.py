"""Every key of the configuration: one frozen dataclass a section, `Config` with all of them.

Here a key is added or changed; then `make config` writes config.json and docs/configuration.md anew.
"""

import math
import typing
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from utils.options import option


@dataclass(frozen=True)
class PathsConfig:
    """Where the stages read and write."""

    data_dir: Path = option(
        Path("data"), "every path whose default is below `data/` follows this one, unless it is set itself"
    )
    raw_dir: Path = option(Path("data/raw/enwiki_namespace_0"), "raw dump files that the cleaner reads")
    cleaned_dir: Path = option(Path("data/cleaned_articles"), "cleaned text, one article a line")
    tokenizer_dir: Path = option(
        Path("tokenizers/codellama_tokenizer"), "folder with the tokenizer's `tokenizer.json` or `tokenizer.model`"
    )
    checkpoint_dir: Path = option(Path("checkpoints"), "one folder for each training run")
    log_dir: Path = option(Path("logs"), "TensorBoard events and raw metrics")
    benchmark_dir: Path = option(Path("benchmark_results"), "benchmark reports")
    post_training_dir: Path = option(Path("data/post-training"), "instruction-tuning conversations, raw and tokenized")


_DROP_OR_KEEP = ("drop", "keep")
_DROPPED_SECTIONS = (
    "References",
    "See also",
    "External links",
    "Further reading",
    "Notes",
    "Footnotes",
    "Citations",
    "Sources",
    "Bibliography",
    "Works cited",
    "Notes and references",
    "References and notes",
    "Explanatory notes",
    "General references",
    "Gallery",
)


@dataclass(frozen=True)
class CleaningConfig:
    """The cleaner and its policy: what of an article stays. `python3 cleaner.py --show 5` shows what it does."""

    workers: int = option(4, "files cleaned at once, one process each", minimum=1)
    test_articles: int = option(50_000, "articles of each file that `--test` takes", minimum=1)
    title: str = option("keep", "the title as the article's first paragraph", choices=_DROP_OR_KEEP)
    headings: str = option("keep", "section headings, each a paragraph", choices=_DROP_OR_KEEP)
    drop_sections: tuple[str, ...] = option(
        _DROPPED_SECTIONS, "headings of sections that go, with all below them; case does not matter"
    )
    redirects: str = option("drop", "pages that only point to another", choices=_DROP_OR_KEEP)
    disambiguations: str = option("drop", "pages that list what a name may mean", choices=_DROP_OR_KEEP)
    min_characters: int = option(100, "an article with less text below its title goes as a stub", minimum=0)
    lists: str = option("keep", "list items, each a line that starts with `- ` or its number", choices=_DROP_OR_KEEP)
    tables: str = option("drop", "tables; kept, a row is a line with ` | ` between cells", choices=_DROP_OR_KEEP)
    infoboxes: str = option("drop", "infoboxes; kept, a field is a line `name: value`", choices=_DROP_OR_KEEP)
    captions: str = option("drop", "captions of images and galleries", choices=_DROP_OR_KEEP)
    maths: str = option("keep", "formulas, kept as `$TeX$`", choices=_DROP_OR_KEEP)
    markup: bool = option(
        True, "mend text: leftover markup, citation marks, coordinates and stray spaces go; false: text stays as it is"
    )


@dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer every stage uses."""

    name: str = option(
        "codellama/CodeLlama-7b-hf", "name on the Hugging Face hub, fetched once into `paths.tokenizer_dir`"
    )


@dataclass(frozen=True)
class DatasetConfig:
    """Token datasets: which one is used, how it is windowed and split."""

    source: str = option("wikipedia", "the dataset that training uses", choices=("wikipedia", "fineweb", "custom"))
    wikipedia_test_dir: Path = option(Path("data/tokenized_datasets/codellama_test_dataset"), "Wikipedia, test mode")
    wikipedia_full_dir: Path = option(Path("data/tokenized_datasets/codellama_full_dataset"), "Wikipedia, complete")
    fineweb_test_dir: Path = option(Path("data/tokenized_datasets/fineweb_test_dataset"), "FineWeb, test mode")
    fineweb_full_dir: Path = option(Path("data/tokenized_datasets/fineweb_full_dataset"), "FineWeb, complete")
    custom_dir: Path = option(Path("data/tokenized_datasets/custom_dataset"), "your own text, both modes")
    window: int = option(512, "tokens in a training window", minimum=2)
    overlap: float = option(0.5, "share of a window that the next one repeats", minimum=0.0, maximum=0.95)
    val_split: float = option(
        0.1, "share of the stream held out for validation, in contiguous blocks", above=0.0, maximum=0.5
    )
    seed: int = option(42, "draws the validation blocks", minimum=0)
    isolate_documents: bool = option(
        False, "documents that share a window do not attend to each other; slower on the CPU"
    )
    parts: int = option(
        4, "parts that training tokens are loaded to the device in; more where two do not fit in its memory", minimum=1
    )
    max_files: int = option(38, "token files in a dataset at most", minimum=1)
    file_tokens: int = option(1 << 24, "tokens of a file at least, more where `max_files` asks for it", minimum=1)
    test_documents: int = option(10_000, "articles or documents that `--test` takes", minimum=1)
    batch_size: int = option(10_000, "documents tokenized in one go", minimum=1)
    workers: int | None = option(None, "processes that prepare a dataset; null: one a core", minimum=1)
    deduplicate: bool = option(True, "documents that repeat an earlier one are left out")
    decontaminate: Path | None = option(
        None, "evaluation files; documents that share a 13-gram with them are left out; null: not looked for"
    )

    @property
    def stride(self) -> int:
        """Tokens from one window's start to the next one's."""
        return max(1, round(self.window * (1 - self.overlap)))

    def directory(self, *, test: bool, source: str | None = None) -> Path:
        """The folder of `source` (the configured one) in test or full mode."""
        source = source or self.source
        return self.custom_dir if source == "custom" else getattr(self, f"{source}_{'test' if test else 'full'}_dir")


@dataclass(frozen=True)
class FineWebConfig:
    """What `fineweb_prep.py` reads and keeps."""

    name: str = option("HuggingFaceFW/fineweb", "dataset on the Hugging Face hub")
    subset: str = option("sample-10BT", "its configuration")
    min_language_score: float = option(0.65, "documents scored lower are left out", minimum=0.0, maximum=1.0)
    min_tokens: int = option(100, "documents with fewer tokens are left out", minimum=0)
    quality_rules: tuple[str, ...] = option(
        (), "further rules: `gopher_quality`, `gopher_stop_words`, `gopher_repetition`, `c4`"
    )
    workers: int | None = option(
        None, "processes that stream and tokenize; null: one that reads ahead, or with `--source` one a core", minimum=1
    )
    retries: int = option(8, "failures in a row after which a download gives up; what is prepared is kept", minimum=1)
    retry_seconds: float = option(1.0, "wait after the first failure; doubles with each, up to a minute", minimum=0.0)


def automatic_ffn_size(hidden_size: int) -> int:
    """8/3 of the width, which gives a gated block the parameters of one without a gate that is four times as wide;
    rounded up to a multiple of 64, which GPUs multiply best."""
    return math.ceil(8 * hidden_size / (3 * 64)) * 64


@dataclass(frozen=True)
class ModelConfig:
    """The transformer's shape. The defaults are the 25M model."""

    vocab_size: int = option(32_016, "checked against the tokenizer and the dataset", minimum=1, maximum=65_536)
    hidden_size: int = option(384, "width of the residual stream", minimum=1)
    num_hidden_layers: int = option(8, "transformer blocks", minimum=1)
    num_attention_heads: int = option(6, "query heads; divides `hidden_size`", minimum=1)
    num_key_value_heads: int = option(2, "key-value heads; divides `num_attention_heads`", minimum=1)
    intermediate_size: int | None = option(
        1024, "width of the feed-forward block; null: 8/3 of `hidden_size`, rounded up to a multiple of 64", minimum=1
    )
    max_position_embeddings: int = option(
        1024,
        "longest context without scaled positions, at least `dataset.window`, to which a new run lowers it",
        minimum=2,
    )
    rope_theta: float = option(10_000.0, "base of the rotary frequencies", above=0.0)
    rope_scaling: str = option(
        "none",
        "stretches the positions to a context `rope_scaling_factor` times as long",
        choices=("none", "linear", "ntk", "yarn"),
    )
    rope_scaling_factor: float = option(1.0, "1 with `none`, above 1 with the others", minimum=1.0, maximum=1024.0)
    norm: str = option("rms", "RMSNorm or LayerNorm", choices=("rms", "layer"))
    norm_eps: float = option(1e-5, "added to the variance in every norm", above=0.0)
    activation: str = option("swiglu", "gated feed-forward activation", choices=("swiglu", "geglu", "reglu"))
    tie_word_embeddings: bool = option(True, "one matrix serves as input embedding and output head")
    qk_norm: bool = option(False, "RMSNorm on queries and keys, as in Qwen3")
    dropout: float = option(0.0, "on residual branches, in training only", minimum=0.0, maximum=0.9)
    depth_scaled_init: bool = option(True, "what is added to the residual stream starts smaller in deeper models")
    activation_checkpointing: bool = option(
        False, "blocks are computed again in the backward pass: a third more work for a fraction of the memory"
    )

    @property
    def context_length(self) -> int:
        """The longest sequence that the model takes, scaled positions included."""
        return int(self.max_position_embeddings * self.rope_scaling_factor)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def ffn_size(self) -> int:
        """`intermediate_size`, or SwiGLU's 8/3 of the width rounded up to a multiple of 64."""
        return self.intermediate_size or automatic_ffn_size(self.hidden_size)

    def problem(self) -> str:
        """What does not fit together, or an empty string."""
        if self.hidden_size % self.num_attention_heads:
            width = f"model.hidden_size {self.hidden_size}"
            return f"model.num_attention_heads {self.num_attention_heads} does not divide {width}"
        if self.num_attention_heads % self.num_key_value_heads:
            heads = f"model.num_attention_heads {self.num_attention_heads}"
            return f"model.num_key_value_heads {self.num_key_value_heads} does not divide {heads}"
        if self.head_dim % 2:
            return f"a head has {self.head_dim} values (hidden_size / num_attention_heads); RoPE wants an even number"
        if (self.rope_scaling == "none") != (self.rope_scaling_factor == 1):
            scaling = f"model.rope_scaling {self.rope_scaling!r}"
            return f"{scaling} with model.rope_scaling_factor {self.rope_scaling_factor}; wanted: both or neither"
        return ""


@dataclass(frozen=True)
class TrainingConfig:
    """The training loop."""

    device: str = option(
        "cuda", "training stops at once where there is none; a CPU run is asked for", choices=("cuda", "cpu", "mps")
    )
    dtype: str = option(
        "auto",
        "compute type; auto: bfloat16 on CUDA, float32 elsewhere; weights stay float32",
        choices=("auto", "float32", "bfloat16"),
    )
    compile: str = option("auto", "torch.compile; what auto chose is printed", choices=("auto", "on", "off"))
    attention: str = option(
        "flash",
        "on CUDA: flash (FlashAttention or cuDNN, or training stops and says why), or any kernel that runs",
        choices=("flash", "any"),
    )
    batch_size: int = option(32, "windows a process takes in one forward pass", minimum=1)
    gradient_accumulation_steps: int = option(4, "forward passes in one step", minimum=1)
    optimizer: str = option(
        "adamw", "AdamW, or Muon for the hidden matrices and AdamW for the rest", choices=("adamw", "muon")
    )
    learning_rate: float = option(1e-3, "at the end of the warm-up", above=0.0)
    muon_learning_rate: float = option(5e-3, "Muon's rate for hidden matrices, on the same schedule", above=0.0)
    min_learning_rate: float = option(1e-4, "at the end of the schedule", minimum=0.0)
    schedule: str = option(
        "cosine",
        "what follows the warm-up: a cosine, or a plateau with a linear decay at the end (wsd)",
        choices=("cosine", "wsd"),
    )
    warmup_steps: int = option(200, "steps of linear warm-up, at most half of all steps", minimum=0)
    decay_share: float = option(0.2, "share of the steps that the decay of wsd takes", above=0.0, maximum=1.0)
    weight_decay: float = option(0.1, "on matrices only", minimum=0.0)
    beta1: float = option(0.9, "AdamW's decay of the mean", minimum=0.0, maximum=0.9999)
    beta2: float = option(0.95, "AdamW's decay of the square", minimum=0.0, maximum=0.99999)
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm; 0: not clipped", minimum=0.0)
    spike_sigma: float = option(
        6.0, "a loss so many deviations above the recent ones is not learned from; 0: only NaN is refused", minimum=0.0
    )
    max_skipped_steps: int = option(
        3, "steps skipped in a row before training returns to the last checkpoint and leaves their data out", minimum=1
    )
    max_rollbacks: int = option(3, "returns to a checkpoint before training stops", minimum=0)
    num_epochs: int = option(1, "passes over the training windows", minimum=1)
    max_steps: int | None = option(None, "stop after so many steps; null: all epochs", minimum=1)
    seed: int = option(1337, "weights, order of the windows, dropout", minimum=0)
    val_tokens: int = option(10_000_000, "validation tokens scored at most, the same in every run", minimum=1)
    validations_per_epoch: int = option(10, "validation every so many parts of an epoch", minimum=1)
    early_stopping_patience: int | None = option(
        None, "validations without a new best before training stops; null: never", minimum=1
    )
    checkpoint_every_steps: int = option(1000, "steps between checkpoints", minimum=1)
    keep_last: int = option(3, "step checkpoints kept, the newest", minimum=1)
    sample_prompts: tuple[str, ...] = option(
        ("The history of",), "the model continues these after each validation; an empty list: none"
    )
    sample_tokens: int = option(40, "tokens of such a sample", minimum=1)
    log_every_steps: int = option(10, "steps between two lines of the log", minimum=1)
    metrics_window: int = option(50, "steps over which shown metrics are smoothed", minimum=1)


@dataclass(frozen=True)
class GenerationConfig:
    """Defaults for generated text."""

    max_length: int = option(200, "new tokens at most", minimum=1)
    temperature: float = option(0.8, "0: always the likeliest token", minimum=0.0)
    top_k: int = option(50, "draw among the k likeliest; 0: all", minimum=0)
    top_p: float = option(0.95, "draw among the likeliest that hold this probability; 1: all", above=0.0, maximum=1.0)
    min_p: float = option(
        0.0, "draw among those with this share of the likeliest's probability", minimum=0.0, maximum=0.99
    )
    repetition_penalty: float = option(1.0, "above 1: what has been said becomes less likely", above=0.0)
    seed: int | None = option(None, "the same seed gives the same text; null: another one each time", minimum=0)
    on_overflow: str = option(
        "slide",
        "beyond the context: slide (drop the oldest half, read the rest again) or refuse the request",
        choices=("slide", "refuse"),
    )
    dtype: str = option(
        "auto",
        "type of the weights; auto: bfloat16 on CUDA, float32 elsewhere",
        choices=("auto", "float32", "bfloat16"),
    )
    quantize: str = option("none", "int8: a quarter of the memory, faster on a CPU", choices=("none", "int8"))
    compile: str = option(
        "auto",
        "the decode step on a CPU; on: compiled once for each shape of model and kept; auto: if that was done before",
        choices=("auto", "on", "off"),
    )


@dataclass(frozen=True)
class SftConfig:
    """Supervised fine-tuning. What is not named here is as in `training`."""

    learning_rate: float = option(5e-5, "at the end of the warm-up", above=0.0)
    min_learning_rate: float = option(0.0, "at the end of the schedule", minimum=0.0)
    warmup_steps: int = option(10, "steps of linear warm-up, at most half of all steps", minimum=0)
    batch_size: int = option(8, "conversations in one forward pass; with packing rows", minimum=1)
    gradient_accumulation_steps: int = option(1, "forward passes in one step", minimum=1)
    num_epochs: int = option(3, "passes over the conversations", minimum=1)
    val_split: float = option(0.1, "share of the conversations held out", above=0.0, maximum=0.5)
    seed: int = option(42, "draws the held-out conversations and the order of the others", minimum=0)
    max_length: int = option(512, "tokens of a conversation at most", minimum=2)
    packing: bool = option(False, "several conversations share a row, without attention between them")
    validations_per_epoch: int = option(5, "validation every so many parts of an epoch", minimum=1)
    early_stopping_patience: int | None = option(
        10, "validations without a new best before tuning stops; null: never", minimum=1
    )
    sample_prompts: tuple[str, ...] = option(
        ("What is the capital of France?", "How do I boil an egg?", "Write a short poem about the sea."),
        "questions answered after every validation",
    )
    sample_length: int = option(60, "tokens of such an answer at most", minimum=1)


@dataclass(frozen=True)
class BenchmarkConfig:
    """Evaluation."""

    data_dir: Path | None = option(
        None, "folder with `wikitext/`, `lambada/`, `hellaswag/`; null: fetched from the hub"
    )


@dataclass(frozen=True)
class ServerConfig:
    """The REST server."""

    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 opens it to the network")
    port: int = option(8000, "TCP port; 0: a free one", minimum=0, maximum=65_535)
    max_batch: int = option(16, "answers that a model writes at once", minimum=1)
    max_waiting: int = option(64, "answers that may wait for a place; more are told to come again (429)", minimum=1)
    max_tokens: int = option(1024, "new tokens that a request may ask for", minimum=1)
    max_body_bytes: int = option(1_000_000, "size of a request's body at most", minimum=1)
    request_timeout: float = option(120.0, "seconds that an answer may take, waiting included", above=0.0)
    max_connections: int = option(
        512, "open connections; beyond it, the one goes that has kept the server waiting longest", minimum=1
    )
    header_timeout: float = option(10.0, "seconds that a client may take to send a request's headers", above=0.0)
    body_timeout: float = option(
        30.0, "seconds that a client may take to send a request's body, or to take in what was answered", above=0.0
    )
    allowed_hosts: tuple[str, ...] = option(
        (),
        "names that requests may be sent to, besides localhost, addresses, `host` and, unless it is a loopback "
        'address, the name of this machine; `"*"`: any',
    )


@dataclass(frozen=True)
class Config:
    """All sections. Frozen: what a run was configured with does not change while it runs.

    `explicit` names the keys (``section.key``) that the user set: by a flag, ``--set``, a config file laid over
    config.json, a checkpoint's configuration, or a value in config.json that differs from the default.
    """

    paths: PathsConfig = field(default_factory=PathsConfig)
    cleaning: CleaningConfig = field(default_factory=CleaningConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    fineweb: FineWebConfig = field(default_factory=FineWebConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    explicit: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain JSON values, section by section; a path becomes text, a tuple a list."""
        return {name: section_to_dict(getattr(self, name)) for name in SECTIONS}

    def explicit_values(self) -> dict[str, dict[str, Any]]:
        """What `to_dict` says of the keys that the user set."""
        return {
            section: {key: value for key, value in values.items() if f"{section}.{key}" in self.explicit}
            for section, values in self.to_dict().items()
        }

    def problem(self) -> str:
        """What does not fit together across keys, or an empty string."""
        for name, section in (("training", self.training), ("sft", self.sft)):
            if section.min_learning_rate > section.learning_rate:
                rates = f"{section.min_learning_rate} is above {name}.learning_rate {section.learning_rate}"
                return f"{name}.min_learning_rate {rates}"
        if "dataset.window" in self.explicit and (problem := self.context_problem()):
            return problem
        return self.model.problem()

    def context_problem(self) -> str:
        """What is wrong if the dataset's window is longer than the model's context, or an empty string.

        A window that nobody set gives way to the one that the dataset was prepared with (`pipeline/dataloading/prepared_window.py`).
        """
        if self.model.context_length >= self.dataset.window:
            return ""
        context, window = self.model.max_position_embeddings, self.dataset.window
        factor = self.model.rope_scaling_factor
        scaled = f" x {factor:g} (rope_scaling_factor)" if factor > 1 else ""
        return (
            f"model.max_position_embeddings {context}{scaled} is below dataset.window {window}; for a new model "
            f"--set model.max_position_embeddings={window}, for one that is trained --set model.rope_scaling=yarn "
            f"--set model.rope_scaling_factor={-(-window // context)}"
        )


SECTIONS: dict[str, type] = {name: hint for name, hint in typing.get_type_hints(Config).items() if is_dataclass(hint)}


def data_paths() -> dict[tuple[str, str], Path]:
    """(section, key) of every path whose default is below `paths.data_dir` → its place below that folder."""
    root = PathsConfig().data_dir
    defaults = {(name, key.name): key.default for name, section in SECTIONS.items() for key in fields(section)}
    paths = {key: default for key, default in defaults.items() if isinstance(default, Path) and default != root}
    return {key: path.relative_to(root) for key, path in paths.items() if path.is_relative_to(root)}


def section_to_dict(section: Any) -> dict[str, Any]:
    """One section's plain JSON values."""

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        return list(value) if isinstance(value, tuple) else value

    return {each.name: plain(getattr(section, each.name)) for each in fields(section)}
