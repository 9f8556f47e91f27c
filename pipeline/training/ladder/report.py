"""The ladder's summary, which fits on a screen of 80 × 24, and its files.

report = Report.of(ladder, findings, hours=None)
print(report.text())
report.write()          # ladder.txt, ladder.json, ladder.png, ladder.svg
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pipeline.training.ladder.climb import Findings, Ladder
from pipeline.training.ladder.data_supply import UNUSUAL_PASSES, effective_tokens, passes
from pipeline.training.ladder.picture import Curves, draw
from pipeline.training.ladder.prediction import INTERVAL, Choice, Prediction, best_choice, doubt, predict
from pipeline.training.ladder.rates import config_at_width, loss_at_multiple
from utils.files import write_json, write_text
from utils.packages import is_installed
from utils.terminal import format_count, format_seconds, format_table

_AGREEMENT = 1.5  # the second size's best rate may differ by this factor


@dataclass(frozen=True)
class Report:
    """The findings and what follows from them."""

    ladder: Ladder
    findings: Findings
    prediction: Prediction
    choice: Choice
    hours: float

    @classmethod
    def of(cls, ladder: Ladder, findings: Findings, *, hours: float | None) -> "Report":
        """`hours`: the budget to advise on; None: the time that the configured run takes."""
        target = ladder.target
        tokens = effective_tokens(target.tokens, ladder.unique)
        seconds = ladder.seconds_per_token * target.tokens
        budget = seconds if hours is None else 3600 * hours
        choice = best_choice(
            findings.law,
            target.model,
            window=target.window,
            flops=target.flops * budget / seconds,
            unique=ladder.unique,
        )
        prediction = predict(findings.law, findings.points, target.parameters, tokens)
        return cls(ladder, findings, prediction, choice, budget / 3600)

    # ---- text

    def text(self) -> str:
        """The summary: the points and the law, then one line or two for each answer."""
        lines = [self._points(), self._law()]
        answers = (
            ("prediction", self._prediction()),
            ("time", self._time()),
            ("rate", self._rate()),
            ("batch", self._batch()),
            ("best run", self._best()),
            ("files", str(self.ladder.folder)),
        )
        return "\n".join(lines + [f"{name:<11} {text}" for name, text in answers])

    def _points(self) -> str:
        header = ["width", "layers", "parameters", "tokens", "steps", "loss", "fitted", "error"]
        rows = [
            [
                str(rung.model.hidden_size),
                str(rung.model.num_hidden_layers),
                format_count(rung.parameters),
                format_count(rung.tokens),
                f"{rung.steps:,}",
                f"{point.loss:.4f}",
                f"{self.findings.law.loss(point.parameters, point.tokens):.4f}",
                f"{self.findings.law.loss(point.parameters, point.tokens) / point.loss - 1:+.1%}",
            ]
            for (rung, _), point in zip(self.findings.results, self.findings.points, strict=True)
        ]
        return format_table([header, *rows], right=range(len(header)))

    def _law(self) -> str:
        law = self.findings.law
        size = f"{law.parameter_factor:.3g} / N^{law.parameter_exponent:.2f}"
        error = law.typical_error(self.findings.points)
        tokens = f"{law.token_factor:.3g} / D^{law.token_exponent:.2f}"
        return f"loss = {law.floor:.2f} + {size} + {tokens}   (typical error {error:.1%})"

    def _prediction(self) -> str:
        predicted = self.prediction
        text = f"loss {predicted.loss:.3f} ({predicted.low:.3f} to {predicted.high:.3f})"
        if ratio := self.bits_per_byte_of_loss():
            low, high = predicted.low * ratio, predicted.high * ratio
            text += f", {predicted.loss * ratio:.3f} bits per byte ({low:.3f} to {high:.3f})"
        reason = doubt(self.findings.law, self.findings.points)
        return text + (_continued(reason) if reason else "") + self._supply()

    def bits_per_byte_of_loss(self) -> float | None:
        """Bits per byte for a loss of 1: a property of the tokenizer and the validation text."""
        result = self.findings.results[-1][1]
        return None if result.bits_per_byte is None else result.bits_per_byte / result.loss

    def _supply(self) -> str:
        target = self.ladder.target
        number = passes(target.tokens, self.ladder.unique)
        if number <= 1.05:
            return ""
        worth = format_count(effective_tokens(target.tokens, self.ladder.unique))
        note = f"the data is seen {number:.1f} times, worth {worth} new tokens"
        return _continued(note if number <= UNUSUAL_PASSES else f"{note}; expect the loss to be higher")

    def _time(self) -> str:
        target = self.ladder.target
        seconds = format_seconds(self.ladder.seconds_per_token * target.tokens)
        return f"{seconds} for {target.steps:,} steps, {format_count(target.tokens)} tokens"

    def _rate(self) -> str:
        multiple, second = self.findings.multiple, self.findings.second_best
        lost = loss_at_multiple(self.findings.search, 1.0) - loss_at_multiple(self.findings.search, multiple)
        found = f"{multiple:.2g} × the configured one ({max(0.0, lost):.3f} lower loss at the smallest size)"
        agrees = 1 / _AGREEMENT <= second / multiple <= _AGREEMENT
        verdict = "agrees" if agrees else "disagrees, so try both"
        return found + _continued(f"the second size {verdict}: {second:.2g} ×") + _continued(self.settings())

    def settings(self) -> str:
        """The rates for the configured width, as command-line settings."""
        model = self.ladder.start.config.model
        training = config_at_width(
            self.ladder.start.config.training,
            self.findings.multiple,
            width=model.hidden_size,
            configured_width=model.hidden_size,
        )
        settings = f"set training.learning_rate={training.learning_rate:.3g}"
        if training.optimizer == "muon":
            settings += f" and muon_learning_rate={training.muon_learning_rate:.3g}"
        return settings

    def _batch(self) -> str:
        target = self.ladder.target
        configured = format_count(target.step_windows * target.window)
        noise = self.findings.noise_tokens
        if not math.isfinite(noise):
            return f"the noise was too large to measure; the configured step is {configured} tokens"
        return f"pays up to {format_count(noise)} tokens a step, later more (configured: {configured})"

    def _best(self) -> str:
        choice = self.choice
        model = choice.model
        shape = f"width {model.hidden_size}, {model.num_hidden_layers} layers, {format_count(choice.tokens)} tokens"
        limit = _continued("(at the edge of the widths tried)") if choice.at_limit else ""
        return f"in {format_seconds(3600 * self.hours)}: {shape}, loss {choice.loss:.3f}{limit}"

    # ---- files

    def write(self) -> list[str]:
        """Write the files; returns a note for each that could not be created."""
        folder = self.ladder.folder
        write_text(folder / "ladder.txt", f"{self.text()}\n")
        write_json(folder / "ladder.json", self.content())
        if not is_installed("matplotlib"):
            return ["no picture: the package matplotlib is not installed"]
        for suffix in ("png", "svg"):
            draw(folder / f"ladder.{suffix}", self._curves())
        return []

    def content(self) -> Mapping[str, object]:
        """Everything as plain JSON values."""
        findings, target = self.findings, self.ladder.target
        noise = findings.noise_tokens
        return {
            "law": asdict(findings.law),
            "points": [asdict(point) for point in findings.points],
            "configured_run": {
                "parameters": target.parameters,
                "tokens": target.tokens,
                "effective_tokens": effective_tokens(target.tokens, self.ladder.unique),
                "flops": target.flops,
                "seconds": self.ladder.seconds_per_token * target.tokens,
            },
            "ladder_share": self.ladder.plan.flops / target.flops,
            "prediction": {**asdict(self.prediction), "interval": INTERVAL},
            "doubt": doubt(self.findings.law, self.findings.points),
            "bits_per_byte_of_loss": self.bits_per_byte_of_loss(),
            "rate_multiple": findings.multiple,
            "rate_losses": _finite(findings.search),
            "second_size_multiple": findings.second_best,
            "second_size_losses": _finite(findings.check),
            "noise_scale_tokens": noise if math.isfinite(noise) else None,
            "best_run": {
                "hours": self.hours,
                "hidden_size": self.choice.model.hidden_size,
                "num_hidden_layers": self.choice.model.num_hidden_layers,
                "tokens": self.choice.tokens,
                "loss": self.choice.loss,
            },
        }

    def _curves(self) -> Curves:
        target = self.ladder.target
        names = [f"width {rung.model.hidden_size}" for rung, _ in self.findings.results]
        return Curves(
            self.findings.law,
            self.findings.points,
            names,
            self.prediction,
            target.parameters,
            effective_tokens(target.tokens, self.ladder.unique),
            self.findings.search,
            self.findings.check,
        )


def plan_text(ladder: Ladder) -> str:
    """What the ladder will cost, printed before it starts."""
    share = ladder.plan.flops / ladder.target.flops
    widths = sorted({rung.model.hidden_size for rung in ladder.plan.grid})
    text = (
        f"ladder: at most {len(ladder.plan.most_runs)} small runs at widths {', '.join(map(str, widths))}, together "
        f"{share:.1%} of the configured run's operations, about {format_seconds(ladder.ladder_seconds)}"
    )
    lines = [text, f"everything goes to {ladder.folder}; after an interruption, run the same command again"]
    if ladder.start.config.training.early_stopping_patience:
        lines.append("the prediction is for a full run; training.early_stopping_patience may end it sooner")
    longest = max(rung.tokens for rung in ladder.plan.grid)
    if longest > ladder.unique:
        lines.append(
            f"the data is too small for the ladder alone: its longest runs see {format_count(longest)} tokens of "
            f"{format_count(ladder.unique)}; expect a poor prediction, or prepare more text"
        )
    return "\n".join(lines)


def _continued(text: str) -> str:
    return f"\n{'':<11} {text}"


def _finite(losses: Mapping[float, float]) -> dict[str, float | None]:
    return {f"{multiple:g}": loss if math.isfinite(loss) else None for multiple, loss in sorted(losses.items())}
