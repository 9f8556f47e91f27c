"""The `training` section of the configuration: the training loop."""

from dataclasses import dataclass

from utils.options import option


@dataclass(frozen=True)
class TrainingConfig:
    """The training loop."""

    device: str = option(
        "cuda",
        "training fails immediately if it is missing; use cpu to train without a GPU",
        choices=("cuda", "cpu", "mps"),
    )
    dtype: str = option(
        "auto",
        "compute type; auto: bfloat16 on CUDA, float32 elsewhere; weights stay float32",
        choices=("auto", "float32", "bfloat16"),
    )
    compile: str = option("auto", "torch.compile; auto prints its choice", choices=("auto", "on", "off"))
    attention: str = option(
        "flash",
        "on CUDA: flash (FlashAttention or cuDNN; otherwise training stops with the reason), or any kernel that runs",
        choices=("flash", "any"),
    )
    batch_size: int = option(32, "windows in one forward pass of a process", minimum=1)
    gradient_accumulation_steps: int = option(4, "forward passes in one step", minimum=1)
    optimizer: str = option(
        "adamw", "AdamW, or Muon for the hidden matrices and AdamW for the rest", choices=("adamw", "muon")
    )
    learning_rate: float = option(1e-3, "peak, at the end of the warm-up", above=0.0)
    muon_learning_rate: float = option(5e-3, "Muon's rate for hidden matrices, on the same schedule", above=0.0)
    min_learning_rate: float = option(1e-4, "at the end of the schedule", minimum=0.0)
    schedule: str = option(
        "cosine",
        "what follows the warm-up: a cosine, or a plateau with a linear decay at the end (wsd)",
        choices=("cosine", "wsd"),
    )
    warmup_steps: int = option(200, "steps of linear warm-up, at most half of all steps", minimum=0)
    decay_share: float = option(0.2, "share of the steps used for the decay of wsd", above=0.0, maximum=1.0)
    weight_decay: float = option(0.1, "applied to matrices only", minimum=0.0)
    beta1: float = option(0.9, "AdamW's decay rate for the mean", minimum=0.0, maximum=0.9999)
    beta2: float = option(0.95, "AdamW's decay rate for the square", minimum=0.0, maximum=0.99999)
    max_grad_norm: float = option(1.0, "clip gradients to this norm; 0: off", minimum=0.0)
    spike_sigma: float = option(
        6.0, "skip steps whose loss is this many standard deviations above recent ones; 0: only NaN losses", minimum=0.0
    )
    max_skipped_steps: int = option(
        3, "consecutive skipped steps before training returns to the last checkpoint and skips their data", minimum=1
    )
    max_rollbacks: int = option(3, "maximum number of rollbacks before training stops", minimum=0)
    num_epochs: int = option(1, "passes over the training windows", minimum=1)
    max_steps: int | None = option(None, "stop after this many steps; null: all epochs", minimum=1)
    seed: int = option(1337, "seed for weights, order of the windows, dropout", minimum=0)
    val_tokens: int = option(10_000_000, "maximum number of validation tokens scored, the same in every run", minimum=1)
    validations_per_epoch: int = option(10, "validations per epoch, evenly spaced", minimum=1)
    early_stopping_patience: int | None = option(
        None, "stop after this many validations without a new best; null: never", minimum=1
    )
    checkpoint_every_steps: int = option(1000, "steps between checkpoints", minimum=1)
    keep_last: int = option(3, "number of step checkpoints to keep, the newest ones", minimum=1)
    sample_prompts: tuple[str, ...] = option(
        ("The history of",), "continued by the model after each validation; an empty list: none"
    )
    sample_tokens: int = option(40, "tokens in each sample", minimum=1)
    log_every_steps: int = option(10, "steps between log lines", minimum=1)
    metrics_window: int = option(50, "steps over which displayed metrics are smoothed", minimum=1)
    tracker: str = option(
        "none",
        "also send metrics and samples to Weights & Biases or trackio, if that package is installed",
        choices=("none", "wandb", "trackio"),
    )
    tracker_project: str = option("language-model", "the project of the tracker in which runs appear")
