"""Record a trace of a few training steps for https://ui.perfetto.dev or chrome://tracing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

TRACE_NAME = "trace.json"
_WAIT, _WARM_UP, _ACTIVE = 3, 1, 3  # steps; compiling and allocating finish before the trace starts
_NEEDED = _WAIT + _WARM_UP + _ACTIVE


@contextmanager
def step_profile(path: Path | None, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each step. Writes the trace to `path` after the seventh, or reports that the run
    was too short. With None, it does nothing."""
    if path is None:
        yield lambda: None
        return

    steps = 0

    def write(profiler: profile) -> None:
        if steps < _NEEDED:  # the profiler calls this at its end in any case
            return
        profiler.export_chrome_trace(str(path))
        say(f"trace of {_ACTIVE} steps: {path}; open it in https://ui.perfetto.dev")

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    plan = schedule(wait=_WAIT, warmup=_WARM_UP, active=_ACTIVE, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write) as profiler:

        def on_step() -> None:
            nonlocal steps
            steps += 1
            profiler.step()

        yield on_step
    if steps < _NEEDED:
        say(f"no trace: the run had {steps} steps, but a trace needs {_NEEDED}; raise training.max_steps")
