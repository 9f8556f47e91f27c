"""Training runs on made-up tokens, set up as train.py sets them up.

dataset = write_dataset(folder / "tokens", num_tokens=60_000, vocab_size=256, window=128)
with training_run(trial, preset, "training.compile=off") as trainer:
    loss = trainer.train_step()
"""

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from pipeline.configuration import CHECKOUT, Config, load_config
from pipeline.doctor.gpu.trial import Preset, Trial
from pipeline.training.pretraining import set_up
from pipeline.training.trainer import Trainer

PROCESS_SECONDS = 500.0


def settings_of(trial: Trial, preset: Preset, *more: str) -> list[str]:
    """What is laid over the preset's configuration: the made-up dataset, folders of the trial, its device."""
    return [
        *preset.settings,
        "dataset.source=custom",
        f"dataset.custom_dir={trial.folder / f'tokens_{preset.name}'}",
        f"paths.checkpoint_dir={trial.folder / 'checkpoints'}",
        f"paths.log_dir={trial.folder / 'logs'}",
        f"training.device={trial.device}",
        "training.gradient_accumulation_steps=1",
        "training.sample_prompts=[]",
        f"training.val_tokens={4 * trial.scale.window}",
        f"training.max_steps={10 * trial.scale.steps}",
        *more,
    ]


def config_path(preset: Preset) -> str | None:
    return None if preset.config is None else str(CHECKOUT / preset.config)


def config_of(trial: Trial, preset: Preset, *more: str) -> Config:
    return load_config(config_path(preset), settings=settings_of(trial, preset, *more))


@contextmanager
def training_run(
    trial: Trial, preset: Preset, *more: str, resume: Path | None = None, writes: bool = False
) -> Iterator[Trainer]:
    """A trainer of `preset`, on a made-up dataset that is written if it is not there yet.

    Args:
        more: further settings, ``section.key=value``.
        resume: the folder of a run to continue.
        writes: whether the run has a folder; otherwise nothing is written.
    """
    make_dataset(trial, preset)
    arguments = Namespace(
        config=config_path(preset),
        settings=settings_of(trial, preset, *more),
        test=False,
        name=None,
        resume=None if resume is None else str(resume),
        init_from=None,
        dry_run=not writes,
    )
    with ExitStack() as held:
        yield set_up(arguments, held)


def run_train(trial: Trial, preset: Preset, *more: str, starter: Sequence[str] = ()) -> tuple[int, str]:
    """Run train.py itself: its exit code and what it printed.

    Args:
        more: further settings, and options that begin with ``--``.
        starter: what comes before train.py on the command line.
    """
    options = [word for word in more if word.startswith("--")]
    settings = [word for word in more if not word.startswith("--")]
    make_dataset(trial, preset)
    command = [sys.executable, *starter, str(CHECKOUT / "train.py"), *options]
    path = config_path(preset)
    command += ["--config", path] if path else []
    for setting in settings_of(trial, preset, *settings):
        command += ["--set", setting]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PROCESS_SECONDS, cwd=CHECKOUT
    )
    return done.returncode, done.stdout


def last_line(output: str) -> str:
    return output.strip().rpartition("\n")[2] or "nothing printed"


def make_dataset(trial: Trial, preset: Preset) -> None:
    """The preset's dataset, unless an earlier step has made it."""
    config = config_of(trial, preset)
    write_dataset(config.dataset.custom_dir, trial.scale.tokens, config.model.vocab_size, config.dataset.window)


def write_dataset(directory: Path, num_tokens: int, vocab_size: int, window: int) -> None:
    """A stream that a model can learn: a walk over some of the vocabulary, a tenth of it replaced by noise."""
    if (directory / "metadata.json").exists():
        return
    directory.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    used = min(vocab_size, 251)
    stream = np.arange(num_tokens) * 7 % used
    noise = random.random(num_tokens) < 0.1
    stream[noise] = random.integers(0, used, noise.sum())
    np.save(directory / "tokens_0.npy", stream.astype(np.uint16))
    (directory / "metadata.json").write_text(json.dumps({"window": window, "stride": window // 2}))
