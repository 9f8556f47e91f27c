"""What tuning gains in answers: how many questions of a file the model answers correctly before and after.

answers = AnswerGain(file, count_answers)
answers.measure(base_checkpoint, 0)
answers.measure(best_checkpoint, step)
answers.lines(step)

Questions are asked and scored by `pipeline.evaluation.questions`; `post_training.py` passes the function.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from utils.checksums import sha256_of
from utils.errors import PipelineError
from utils.intervals import percent_range
from utils.terminal import say, short_path

RECORD_KEY = "questions"  # in the run's description: the file, its sha256, and step → counts

Counts = Mapping[str, Any]  # `count_values` of pipeline.evaluation.questions


class AnswerGain:
    """Counts the correct answers of checkpoints, and keeps the counts in `record`.

    Args:
        count_answers: the counts of a checkpoint.
        record: of a resumed run, with the counts so far.
    """

    def __init__(
        self, file: Path, count_answers: Callable[[Path], Counts], record: Mapping[str, Any] | None = None
    ) -> None:
        self._count_answers = count_answers
        earlier = record or {"file": str(file.resolve()), "sha256": sha256_of(file)}
        self._counts: dict[str, Counts] = dict(earlier.get("counts", {}))
        self.record: dict[str, Any] = {**earlier, "counts": self._counts}

    def measure(self, checkpoint: Path, step: int) -> Counts:
        """The counts of the model in `checkpoint`, which is at `step`; counted once."""
        if str(step) not in self._counts:
            moment = f"at step {step}" if step else "before tuning"
            say(f"answering the questions in {short_path(Path(self.record['file']))} {moment} …")
            self._counts[str(step)] = self._count_answers(checkpoint)
        return self._counts[str(step)]

    def lines(self, step: int) -> list[str]:
        """The untuned model and the one at `step`, compared."""
        before, after = self._counts["0"], self._counts[str(step)]
        kinds = {"known": ("questions", "right"), "unknown": ("unknown questions", "admitted")}
        lines = []
        for kind, (label, verb) in kinds.items():
            first, last = before[kind], after[kind]
            if first["total"]:
                lines.append(
                    f"{label}: {first['right']} of {first['total']} {verb} before tuning "
                    f"({percent_range(first['interval_95'])}), {last['right']} at step {step} "
                    f"({percent_range(last['interval_95'])})"
                )
        return lines


def recorded_questions(record: Mapping[str, Any]) -> Path:
    """The question file in a resumed run's record.

    Raises:
        PipelineError: the file is gone or was changed, so its counts could not be compared with those before tuning.
    """
    file = Path(record["file"])
    if not file.is_file():
        raise PipelineError(f"{file} does not exist")
    if sha256_of(file) != record["sha256"]:
        raise PipelineError(f"{file} was changed since it was asked before tuning")
    return file
