"""Load and validate the configuration: defaults, config files, ``--set`` and flags.

    config = load_config()                                   # the config.json of the checkout
    config = load_config("configs/110m.json", settings=["training.batch_size=16"])

config.json has every key with its default; any other file contains only what differs. Relative paths are resolved
against the file that contains them, against the checkout for defaults, and against the working directory for ``--set``
and flags. Paths below ``paths.data_dir`` follow it unless they are set explicitly.
"""

import argparse
import json
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from pipeline.cleaning.config import CleaningConfig
from pipeline.evaluation.config import BenchmarkConfig
from pipeline.generation.config import GenerationConfig
from pipeline.modeling.config import ModelConfig
from pipeline.preparation.config import DatasetConfig, FineWebConfig
from pipeline.runs.config import RunsConfig
from pipeline.serving.config import ServerConfig
from pipeline.tokenization.config import TokenizerConfig
from pipeline.training.config import TrainingConfig
from pipeline.tuning.config import SftConfig
from utils.arithmetic import ceil_div
from utils.errors import PipelineError, UsageError, did_you_mean
from utils.options import option, parse_setting, read_section


@dataclass(frozen=True)
class PathsConfig:
    """Where the stages read and write."""

    data_dir: Path = option(
        Path("data"), "every path whose default is below `data/` moves with this one, unless it is set explicitly"
    )
    raw_dir: Path = option(Path("data/raw/enwiki_namespace_0"), "raw dump files that the cleaner reads")
    cleaned_dir: Path = option(Path("data/cleaned_articles"), "cleaned text, one article per line")
    tokenizer_dir: Path = option(
        Path("tokenizers/codellama_tokenizer"), "folder with the tokenizer's `tokenizer.json` or `tokenizer.model`"
    )
    checkpoint_dir: Path = option(Path("checkpoints"), "one folder for each training run")
    log_dir: Path = option(Path("logs"), "TensorBoard events and raw metrics")
    benchmark_dir: Path = option(Path("benchmark_results"), "benchmark reports")
    post_training_dir: Path = option(Path("data/post-training"), "instruction-tuning conversations, raw and tokenized")


@dataclass(frozen=True)
class Config:
    """All sections. Frozen, because the configuration of a run never changes while it runs.

    `explicit` has the keys (``section.key``) that the user set: by a flag, ``--set``, an additional config file, a
    checkpoint's configuration, or a value in config.json that differs from the default.
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
    runs: RunsConfig = field(default_factory=RunsConfig)
    explicit: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain JSON values by section; paths become strings, tuples lists."""
        return {name: section_to_dict(getattr(self, name)) for name in SECTIONS}

    def explicit_values(self) -> dict[str, dict[str, Any]]:
        """The part of `to_dict` that the user set."""
        return {
            section: {key: value for key, value in values.items() if f"{section}.{key}" in self.explicit}
            for section, values in self.to_dict().items()
        }

    def problem(self) -> str:
        """A conflict between keys, or an empty string."""
        for name, section in (("training", self.training), ("sft", self.sft)):
            if section.min_learning_rate > section.learning_rate:
                rates = f"{section.min_learning_rate} is above {name}.learning_rate {section.learning_rate}"
                return f"{name}.min_learning_rate {rates}"
        if "dataset.window" in self.explicit and (problem := self.context_problem()):
            return problem
        return self.model.problem()

    def context_problem(self) -> str:
        """The problem if the dataset's window is longer than the model's context, or an empty string.

        A window that was not set explicitly yields to the one the dataset was prepared with (`window_size.py`).
        """
        if self.model.context_length >= self.dataset.window:
            return ""
        context, window = self.model.max_position_embeddings, self.dataset.window
        factor = self.model.rope_scaling_factor
        scaled = f" x {factor:g} (rope_scaling_factor)" if factor > 1 else ""
        return (
            f"model.max_position_embeddings {context}{scaled} is below dataset.window {window}; for a new model, "
            f"--set model.max_position_embeddings={window}; for a trained one, --set model.rope_scaling=yarn "
            f"--set model.rope_scaling_factor={ceil_div(window, context)}"
        )


SECTIONS: dict[str, type] = {
    name: hint for name, hint in typing.get_type_hints(Config).items() if isinstance(hint, type) and is_dataclass(hint)
}


def data_paths() -> dict[tuple[str, str], Path]:
    """(section, key) of every path whose default is below `paths.data_dir` → its path relative to that folder."""
    root = PathsConfig().data_dir
    paths = {
        (name, key.name): key.default
        for name, section in SECTIONS.items()
        for key in fields(section)
        if isinstance(key.default, Path) and key.default != root
    }
    return {key: path.relative_to(root) for key, path in paths.items() if path.is_relative_to(root)}


def section_to_dict(section: Any) -> dict[str, Any]:
    """One section's plain JSON values."""

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        return list(value) if isinstance(value, tuple) else value

    return {key.name: plain(getattr(section, key.name)) for key in fields(section)}


CHECKOUT = Path(__file__).resolve().parent.parent
DEFAULT_CONFIG = CHECKOUT / "config.json"


def load_config(
    path: str | Path | None = None,
    *,
    settings: Sequence[str] = (),
    flags: Mapping[str, object] | None = None,
    base: Mapping[str, Any] | None = None,
) -> Config:
    """The validated configuration. Later sources win: defaults, config.json, `path`, `settings`, `flags`.

    Args:
        path: a file with only the keys that differ; None: config.json alone.
        settings: ``section.key=value`` strings, as in ``--set``.
        flags: ``{"section.key": value}`` from a stage's own options.
        base: values that replace those of config.json, such as a checkpoint's configuration.

    Raises:
        PipelineError: a file is missing or not JSON, a key is unknown, or a value is invalid.
    """
    files = [] if base else [DEFAULT_CONFIG]
    files += [Path(path)] if path and Path(path).resolve() != DEFAULT_CONFIG else []
    defaults = config_values({}, origin="defaults", base=CHECKOUT)
    values = config_values(base or {}, origin="the checkpoint's configuration", base=CHECKOUT)
    explicit = _chosen(base or {}, values)
    for file in files:
        content = _read_json(file)
        _overlay(values, content, origin=file.name, base=file.resolve().parent)
        # config.json has every default, so a value there was chosen by the user only if it differs.
        explicit |= _differing(values, defaults) if file == DEFAULT_CONFIG else _names(content)
    for setting in settings:
        section, key, text = _split_setting(setting)
        hint = typing.get_type_hints(SECTIONS[section]).get(key, str)
        _overlay(values, {section: {key: parse_setting(text, hint)}}, origin="--set", base=Path.cwd())
        explicit.add(f"{section}.{key}")
    for name, value in (flags or {}).items():
        section, _, key = name.partition(".")
        _overlay(values, {section: {key: value}}, origin="command line", base=Path.cwd())
        explicit.add(name)
    origins = [files[-1].name if files else "the checkpoint's configuration"]
    if settings:
        origins.append("--set")
    if flags:
        origins.append("flags")
    return _checked(values, origin=" and ".join(origins), explicit=frozenset(explicit))


def load_config_from(args: argparse.Namespace) -> Config:
    """The configuration for parsed arguments: own options win over ``--set``, which wins over ``--config``."""
    return load_config(args.config, settings=args.settings, flags=config_flags(args))


def config_flags(args: argparse.Namespace) -> dict[str, object]:
    """The keys set by a stage's own options, which have ``section.key`` as their ``dest``."""
    return {name: value for name, value in vars(args).items() if "." in name and value is not None}


def config_from_dict(content: Mapping[str, Any], *, origin: str) -> Config:
    """The validated configuration from the output of `Config.to_dict`, such as a checkpoint's."""
    values = config_values(content, origin=origin, base=CHECKOUT)
    return _checked(values, origin=origin, explicit=frozenset(_chosen(content, values)))


def folder_keys(section: str) -> set[str]:
    """The keys of a section that are paths."""
    hints = typing.get_type_hints(SECTIONS[section]) if section in SECTIONS else {}
    return {key for key, hint in hints.items() if hint in (Path, Path | None)}


def config_values(content: Mapping[str, Any], *, origin: str, base: Path) -> dict[str, dict[str, Any]]:
    """The value of every key: `content` on top of the defaults, whose paths are in the checkout."""
    values = {name: {key.name: key.default for key in fields(section)} for name, section in SECTIONS.items()}
    for name, section in SECTIONS.items():
        values[name] = read_section(section, values[name], name=name, origin="defaults", base=CHECKOUT)
    _overlay(values, content, origin=origin, base=base)
    return values


def _chosen(content: Mapping[str, Mapping[str, Any]], values: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """``section.key`` of every key in a checkpoint's configuration, except paths that follow its `data_dir`."""
    root = values["paths"]["data_dir"]
    following = {
        f"{section}.{key}" for (section, key), place in data_paths().items() if values[section][key] == root / place
    }
    return _names(content) - following


def _names(content: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """``section.key`` of every key in `content`."""
    return {f"{section}.{key}" for section, keys in content.items() for key in keys}


def _differing(values: Mapping[str, Mapping[str, Any]], defaults: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """``section.key`` of every value that differs from the default."""
    return {
        f"{section}.{key}" for section, keys in values.items() for key in keys if keys[key] != defaults[section][key]
    }


def _checked(values: Mapping[str, Mapping[str, Any]], *, origin: str, explicit: frozenset[str]) -> Config:
    values = _with_data_paths(values, explicit)
    sections = {name: section(**values[name]) for name, section in SECTIONS.items()}
    config = Config(**sections, explicit=explicit)
    problem = config.problem()
    if problem:
        raise PipelineError(f"{origin}: {problem}")
    return config


def _with_data_paths(values: Mapping[str, Mapping[str, Any]], explicit: frozenset[str]) -> dict[str, dict[str, Any]]:
    """`values` with every path that was not set explicitly moved below `paths.data_dir`."""
    result = {name: dict(section) for name, section in values.items()}
    for (section, key), place in data_paths().items():
        if f"{section}.{key}" not in explicit:
            result[section][key] = result["paths"]["data_dir"] / place
    return result


def _overlay(values: dict[str, dict[str, Any]], content: Mapping[str, Any], *, origin: str, base: Path) -> None:
    for name, section_values in content.items():
        if name not in SECTIONS:
            raise PipelineError(f"{origin}: unknown section {name!r}{did_you_mean(name, SECTIONS)}")
        if not isinstance(section_values, Mapping):
            raise PipelineError(f"{origin}: section {name!r} is {section_values!r}; expected an object")
        values[name].update(read_section(SECTIONS[name], section_values, name=name, origin=origin, base=base))


def _split_setting(setting: str) -> tuple[str, str, str]:
    name, equals, text = setting.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and key):
        raise UsageError(f"--set {setting!r}: expected SECTION.KEY=VALUE, for example --set training.batch_size=8")
    if section not in SECTIONS:
        raise UsageError(f"--set {setting!r}: unknown section {section!r}{did_you_mean(section, SECTIONS)}")
    return section, key, text


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON file's object; ``// comments`` are allowed, a repeated key is not."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PipelineError(
            f"config file {path} does not exist; for an example, try --config configs/110m.json"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"config file {path} cannot be read: {error}") from None
    # Strings match first, so a // inside one is kept. Newlines are kept too, so that line numbers stay right.
    text = re.sub(r'("(?:\\.|[^"\\])*")|//[^\n]*', lambda match: match[1] or "", text)
    try:
        content = json.loads(text, object_pairs_hook=lambda pairs: _refuse_doubles(pairs, path))
    except ValueError as error:
        raise PipelineError(f"config file {path} is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise PipelineError(
            f"config file {path} contains a {type(content).__name__}; expected an object containing sections"
        )
    return content


def _refuse_doubles(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise PipelineError(f"config file {path}: duplicate key {doubles[0]!r}")
    return dict(pairs)
