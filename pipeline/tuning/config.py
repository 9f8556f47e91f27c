"""The `sft` section of the configuration: supervised fine-tuning."""

from dataclasses import dataclass

from utils.options import option

LIMA = "GAIR/lima"  # the conversations on the hub that are used by default
RAW_NAME = "lima_train.jsonl"  # their file in paths.post_training_dir


@dataclass(frozen=True)
class SftConfig:
    """Supervised fine-tuning. Everything else comes from `training`."""

    learning_rate: float = option(5e-5, "peak, at the end of the warm-up", above=0.0)
    min_learning_rate: float = option(0.0, "at the end of the schedule", minimum=0.0)
    warmup_steps: int = option(10, "steps of linear warm-up, at most half of all steps", minimum=0)
    batch_size: int = option(8, "conversations in one forward pass, or rows with `packing`", minimum=1)
    gradient_accumulation_steps: int = option(1, "forward passes in one step", minimum=1)
    num_epochs: int = option(3, "passes over the conversations", minimum=1)
    val_split: float = option(0.1, "share of the conversations held out", above=0.0, maximum=0.5)
    seed: int = option(42, "seed for choosing the held-out conversations and ordering the others", minimum=0)
    max_length: int = option(512, "maximum number of tokens in a conversation", minimum=2)
    deduplicate: bool = option(True, "drop conversations that repeat an earlier one")
    packing: bool = option(False, "pack several conversations into a row, without attention between them")
    validations_per_epoch: int = option(5, "validations per epoch, evenly spaced", minimum=1)
    base_val_tokens: int = option(
        32_768, "tokens of the base model's validation text scored in each validation; 0: none", minimum=0
    )
    early_stopping_patience: int | None = option(
        10, "stop after this many validations without a new best; null: never", minimum=1
    )
    sample_prompts: tuple[str, ...] = option(
        ("What is the capital of France?", "How do I boil an egg?", "Write a short poem about the sea."),
        "questions answered by the model after each validation",
    )
    sample_length: int = option(60, "maximum number of tokens in each answer", minimum=1)
