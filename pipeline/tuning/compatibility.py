"""Check that checkpoint, configuration and conversations match for fine-tuning."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pipeline.configuration import Config, config_from_dict
from pipeline.formats.checkpoint import refuse_without_config
from pipeline.modeling.config import ModelConfig
from pipeline.training.callbacks import Validation
from pipeline.tuning.dataset import SftDataset
from utils.errors import PipelineError

# Keys in both `sft` and `training`; fine-tuning uses those of `sft`.
_SHARED_KEYS = (
    "learning_rate",
    "min_learning_rate",
    "warmup_steps",
    "batch_size",
    "gradient_accumulation_steps",
    "num_epochs",
    "seed",
    "validations_per_epoch",
    "early_stopping_patience",
)
# Keys of `model` that affect training only; the others define the architecture.
_FREE_KEYS = ("dropout", "activation_checkpointing")


def tuning_config(config: Config, content: Mapping[str, Any], *, origin: Path) -> Config:
    """`config` with the checkpoint's model and data, and `training` adapted for fine-tuning.

    Raises:
        PipelineError: the checkpoint does not record its architecture, or `config` has a different one.
    """
    refuse_without_config(content, origin)
    base = config_from_dict(content["config"], origin=f"checkpoint {origin}")
    _refuse_other_model(config, base.model, origin)
    changes = {key: getattr(config.sft, key) for key in _SHARED_KEYS}
    # Compiling does not pay off for a few hundred steps; training.compile=on forces it.
    compile_mode = "on" if config.training.compile == "on" else "off"
    training = replace(config.training, **changes, max_steps=None, compile=compile_mode)
    model = replace(base.model, **{key: getattr(config.model, key) for key in _FREE_KEYS})
    return replace(config, model=model, dataset=base.dataset, training=training)


def _refuse_other_model(config: Config, stored: ModelConfig, origin: Path) -> None:
    """Raise PipelineError if the user set a key of `model` that differs from the checkpoint."""
    for key in fields(ModelConfig):
        if key.name in _FREE_KEYS or f"model.{key.name}" not in config.explicit:
            continue
        asked, found = getattr(config.model, key.name), getattr(stored, key.name)
        if asked != found:
            raise PipelineError(
                f"model.{key.name} is {asked} in the configuration, but {found} in checkpoint {origin}, whose "
                "architecture cannot change; remove the key, or use a different checkpoint"
            )


def check_data(data: SftDataset, content: Mapping[str, Any], config: Config, *, origin: Path) -> None:
    """Raise PipelineError if the conversations were made with another tokenizer, or are too long for the model."""
    expected = content.get("tokenizer") or {}
    found = data.metadata["tokenizer"]
    if expected.get("fingerprint") and expected["fingerprint"] != found["fingerprint"]:
        raise PipelineError(
            f"checkpoint {origin} was trained with tokenizer {expected.get('name')} "
            f"({expected['fingerprint'][:12]}), but the conversations in {data.directory} were prepared with "
            f"{found['name']} ({found['fingerprint'][:12]}); prepare them with the model's tokenizer: python3 "
            "lima_tokenizer.py --set paths.tokenizer_dir=DIR"
        )
    if data.metadata["vocab_size"] != config.model.vocab_size:
        sizes = f"{data.metadata['vocab_size']} tokens, but the model has {config.model.vocab_size}"
        raise PipelineError(f"the tokenizer used for {data.directory} has {sizes}; run: python3 lima_tokenizer.py")
    length, context = data.metadata["max_length"], config.model.context_length
    if length > context:
        raise PipelineError(
            f"the conversations in {data.directory} have up to {length} tokens, but the model's context is "
            f"{context}; run: python3 lima_tokenizer.py --max-length {context}"
        )


def refuse_other_data(content: Mapping[str, Any], description: Mapping[str, Any], *, origin: Path) -> None:
    """Raise PipelineError if a resumed run would continue with different conversations."""
    was: str = content["data"]["fingerprint"]
    now: str = description["data"]["fingerprint"]
    if was != now:
        raise PipelineError(
            f"{origin} was tuned on different conversations ({was[:12]}) from those in "
            f"{description['data']['directory']} ({now[:12]}); prepare the original ones again, or start from "
            "the base model with --checkpoint"
        )


class FirstValidation:
    """A callback that stores the validation of the untuned model in `description`, for the summary and checkpoints."""

    def __init__(self, description: dict[str, Any]) -> None:
        self.description = description

    def on_validation(self, validation: Validation) -> None:
        if validation.step == 0:
            self.description["before"] = dict(validation.metrics)
