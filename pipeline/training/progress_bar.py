"""Show the progress of a training run: a bar in a terminal, a line every few seconds in a file or pipe."""

import sys
import time

from utils.terminal import fitted, format_count, format_seconds, terminal_width
from utils.text_layout import join_fitting

_SECONDS_BETWEEN_LINES = 10.0
_SHORTEST_BAR = 10  # columns, with its frame


class TrainingProgress:
    """Loss, tokens per second, model FLOPs utilization and time left; `enabled` is False except in the main process."""

    def __init__(self, total_steps: int, *, first_step: int = 0, enabled: bool = True) -> None:
        from tqdm import tqdm

        self.total_steps = total_steps
        self.enabled = enabled
        self._last_line = time.monotonic()
        show_bar = enabled and sys.stderr.isatty()
        layout = "{percentage:3.0f}%|{bar}| {n}/{total} [{desc}]"  # not tqdm's postfix, which starts with a comma
        self._bar = (
            tqdm(total=total_steps, initial=first_step, bar_format=layout, dynamic_ncols=True) if show_bar else None
        )

    def show(self, *, step: int, loss: float, tokens_per_second: float, seconds_left: float, mfu: float | None) -> None:
        if not self.enabled:
            return
        parts = [f"loss {loss:.4f}", f"{format_count(tokens_per_second)} tokens/s"]
        parts += [f"MFU {mfu:.0%}"] if mfu is not None else []
        parts += [f"{format_seconds(seconds_left)} left"]
        text = ", ".join(parts)
        if self._bar is not None:
            taken = len(f"100%|| {self.total_steps}/{self.total_steps} []") + _SHORTEST_BAR
            text = join_fitting(parts, terminal_width() - taken)
            self._bar.set_description_str(text, refresh=False)
            self._bar.update(step - self._bar.n)
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES or step == self.total_steps:
            self._last_line = time.monotonic()
            print(f"step {step}/{self.total_steps}: {text}", flush=True)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if not self.enabled:
            return
        if self._bar is not None:
            self._bar.write(fitted(text))
        else:
            print(text, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
