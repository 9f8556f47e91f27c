"""Run all checks of the plain doctor in parallel and within a time limit, without changing anything or importing torch.

findings = examine(config)
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

from pipeline.configuration import Config
from pipeline.doctor.accelerator import check_accelerator
from pipeline.doctor.disk import check_disk
from pipeline.doctor.findings import Finding, from_error, note, ok
from pipeline.doctor.hub import check_hub
from pipeline.doctor.machine import check_compiler, check_memory, check_processor
from pipeline.doctor.packages import check_packages, check_python, check_torch, check_tracker
from pipeline.doctor.route import check_checkpoints, check_conversations, check_datasets, check_tokenizer
from pipeline.doctor.server_port import check_port
from pipeline.doctor.time_limit import Started
from pipeline.modeling.memory_estimate import parameters_by_part
from utils.errors import PipelineError
from utils.packages import missing_package_problem
from utils.terminal import format_count

SECONDS = 2.6  # for all checks together

Check = Callable[[Config], list[Finding]]


def check_configuration(config: Config) -> list[Finding]:
    parameters = sum(parameters_by_part(config.model).values())
    changed = len(config.explicit)
    values = "all defaults" if not changed else f"{changed} values set"
    model = f"{format_count(parameters)} parameters, windows of {config.dataset.window} tokens"
    return [ok("config", f"{model}, {config.dataset.source} on {config.training.device}; {values}")]


CHECKS: tuple[tuple[str, Check], ...] = (
    ("python", lambda config: check_python()),
    ("packages", lambda config: check_packages()),
    ("tracker", check_tracker),
    ("config", check_configuration),
    ("torch", lambda config: check_torch()),
    ("gpu", check_accelerator),
    ("processor", check_processor),
    ("compiler", check_compiler),
    ("memory", check_memory),
    ("disk", check_disk),
    ("hub", check_hub),
    ("tokenizer", check_tokenizer),
    ("dataset", check_datasets),
    ("checkpoints", check_checkpoints),
    ("tuning data", check_conversations),
    ("port", check_port),
)


def examine(config: Config, *, checks: Sequence[tuple[str, Check]] = CHECKS, seconds: float = SECONDS) -> list[Finding]:
    """The findings of all `checks`, in order. A check that exceeds the time limit becomes a note."""
    deadline = time.monotonic() + seconds
    started = [(topic, Started(partial(check, config))) for topic, check in checks]
    findings: list[Finding] = []
    for topic, work in started:
        findings += _findings_of(topic, work, deadline)
    return findings


def _findings_of(topic: str, work: Started[list[Finding]], deadline: float) -> list[Finding]:
    try:
        return work.result(deadline)
    except PipelineError as error:
        return [from_error(topic, error)]
    except TimeoutError:
        return [note(topic, "not checked: no answer within the time limit", "run it again when the machine is idle")]
    except ImportError as error:
        if missing_package_problem(error) is None:
            raise
        return [note(topic, f"not checked: the package {error.name} is not installed", "run: make install")]
    except OSError as error:
        return [note(topic, f"not checked: {error}")]
