"""TensorBoard events of a run. A write error is only a warning and never stops the run.

events = TensorBoardLog(log_dir / "tensorboard" / run, first_step=1201)   # drops earlier events from that step on
events.add(1201, {"train/loss": 3.2})
"""

import sys
import threading
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.raw_log import HparamValue

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


# The scores next to the settings in the HPARAMS tab.
COMPARED_METRICS = ("val/loss", "val/bits_per_byte", "train/loss_smoothed")


class TensorBoardLog:
    """Write the numbers and texts of a run until the first file system error.

    Args:
        first_step: TensorBoard drops events of earlier files from this step on; None for a new run.
    """

    def __init__(self, directory: Path, *, first_step: int | None) -> None:
        self.directory = directory
        self._writer: SummaryWriter | None = None
        self._guarded(lambda: self._open(first_step))

    def _open(self, first_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import, so only training runs do

        _silence_writer_threads()
        self._writer = SummaryWriter(str(self.directory), purge_step=first_step, max_queue=1000, flush_secs=120)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._with_writer(partial(_add_scalar, tag=name, value=value, step=step))

    def add_hparams(self, settings: Mapping[str, HparamValue]) -> None:
        """Show the run in the HPARAMS tab, with these settings and the newest scores."""
        self._with_writer(lambda writer: _add_hparams(writer, settings))

    def add_text(self, step: int, name: str, text: str) -> None:
        encodable = text.encode("utf-8", "backslashreplace").decode("utf-8")
        self._with_writer(lambda writer: writer.add_text(name, encodable, step))

    def flush(self) -> None:
        self._with_writer(lambda writer: writer.flush())

    def close(self) -> None:
        self._with_writer(lambda writer: writer.close())
        self._writer = None

    def _with_writer(self, action: "Callable[[SummaryWriter], None]") -> None:
        writer = self._writer
        if writer is not None:
            self._guarded(lambda: action(writer))

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            self._writer = None
            reason = error.strerror or error
            print(f"warning: {self.directory} cannot be written: {reason}; training continues", file=sys.stderr)


@cache
def _silence_writer_threads() -> None:
    """Silence the traceback of TensorBoard's thread on a full disk; `_guarded` gets the same error."""
    from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread

    report = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not (isinstance(args.thread, _AsyncWriterThread) and isinstance(args.exc_value, OSError)):
            report(args)

    threading.excepthook = hook


def _add_hparams(writer: "SummaryWriter", settings: Mapping[str, HparamValue]) -> None:
    """The summaries of `SummaryWriter.add_hparams`, which would put them into a run of their own."""
    from torch.utils.tensorboard import summary

    untyped: Any = summary
    file_writer: Any = writer.file_writer
    for part in untyped.hparams(dict(settings), dict.fromkeys(COMPARED_METRICS, 0.0)):
        file_writer.add_summary(part)


def _add_scalar(writer: "SummaryWriter", tag: str, value: float, step: int) -> None:
    writer.add_scalar(tag, value, step)
