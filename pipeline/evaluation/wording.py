"""How scores are written in the text report and on the page: numbers, intervals, and what they mean in words."""

from collections.abc import Mapping, Sequence
from typing import Any

TITLES = {
    "wikitext": "WikiText-103",
    "lambada": "LAMBADA",
    "hellaswag": "HellaSwag (commonsense)",
    "completion": "Text completion",
}
LABELS = {
    "word_perplexity": "word perplexity",
    "byte_perplexity": "byte perplexity",
    "bits_per_byte": "bits per byte",
    "word_perplexity_corrected": "word perplexity, corrected",
    "token_perplexity": "token perplexity",
    "next_token_top1": "next token, top 1",
    "next_token_top5": "next token, top 5",
    "next_token_top10": "next token, top 10",
    "acc": "accuracy",
    "acc_norm": "accuracy, by length",
    "acc_above_chance": "accuracy above chance",
    "acc_norm_above_chance": "by length, above chance",
    "answer_bits_per_byte": "bits per byte of answer",
    "acc_corrected": "accuracy, corrected",
    "perplexity": "perplexity",
    "perplexity_corrected": "perplexity, corrected",
    "bleu": "BLEU",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
}
HIGHEST_SHOWN = 100_000  # perplexities above it only say that the model has not learned such text
TOO_HIGH = f"over {HIGHEST_SHOWN:,}"
INTERVALS = (
    "The range after a score is its 95% interval: how far it may be off because only this many items were scored."
)
ABOVE_CHANCE = "Above chance, 0% is guessing and 100% is every answer right."
_RANDOM = "no better than guessing"


def title_of(task: str) -> str:
    """Our name for a task; one of the harness keeps its own."""
    return TITLES.get(task, task)


def score_text(figure: Mapping[str, Any]) -> str:
    """``28.9%``, ``1.094``, or ``over 100,000``."""
    value = figure["value"]
    return TOO_HIGH if value is None or _is_too_high(figure) else _number(value, figure["unit"])


def interval_text(figure: Mapping[str, Any]) -> str:
    """``25.1–33.0%``; empty if there is none."""
    if figure["value"] is None or figure["interval"] is None or _is_too_high(figure):
        return ""
    low, high = (_number(bound, figure["unit"]) for bound in figure["interval"])
    if low == high:  # all items are alike, which says nothing about others
        return ""
    if not figure["higher_is_better"] and figure["interval"][1] > HIGHEST_SHOWN:
        high = f"{HIGHEST_SHOWN:,}+"
    return f"{low.removesuffix('%')}{' to ' if low.startswith('-') else '–'}{high}"


def score_with_interval(figure: Mapping[str, Any]) -> str:
    interval = interval_text(figure)
    return f"{score_text(figure)} ({interval})" if interval else score_text(figure)


def notes_of(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Remarks on the scores of a task; scores with the same remark share it."""
    labels: dict[str, list[str]] = {}
    for name, figure in figures.items():
        if figure["note"]:
            labels.setdefault(figure["note"], []).append(_label(name))
    return [f"{' and '.join(names)}: {note}" for note, names in labels.items()]


def label_with_arrow(name: str, figure: Mapping[str, Any]) -> str:
    return f"{_label(name)} {'↑' if figure['higher_is_better'] else '↓'}"


def _label(name: str) -> str:
    return LABELS.get(name, name.replace("_", " "))


def _is_too_high(figure: Mapping[str, Any]) -> bool:
    return not figure["higher_is_better"] and figure["value"] is not None and figure["value"] > HIGHEST_SHOWN


def _number(value: float, unit: str) -> str:
    if unit == "share":
        return f"{100 * value:.1f}%"
    if unit == "bits":
        return f"{value:.3f}"
    if unit == "points":
        return f"{value:.1f}"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def caveat(results: Mapping[str, Any]) -> str:
    """Why no score is comparable with published ones; empty if some are."""
    marks = [data["mark"] for data in results["sets"].values()]
    if not marks or not all(marks) or any(mark.startswith(("custom", "validation")) for mark in marks):
        return ""
    if all(mark.startswith("sample") for mark in marks):
        return "Scored on small built-in samples: not comparable with published scores."
    return "Scored on a part of each set: not comparable with published scores. Use --full for those."


def set_text(results: Mapping[str, Any], task: str) -> str:
    """``100 of 2,891 items from wiki.test.raw``, and why its scores are not comparable if others' are."""
    data = results["sets"][task]
    count = f"{data['items']:,}" if data["items"] == data["total"] else f"{data['items']:,} of {data['total']:,}"
    mark = f" [{data['mark']}]" if data["mark"] and not caveat(results) else ""
    return f"{count} items from {data['origin']}{mark}"


def contamination_text(models: Mapping[str, Any]) -> dict[str, str]:
    """What is known about the training data of each model; once for all models if it is the same."""
    states = {
        name: "; ".join(f"{title_of(task)}: {state}" for task, state in model["contamination"].items())
        for name, model in models.items()
    }
    return {"": next(iter(states.values()))} if len(set(states.values())) == 1 else states


def in_words(model: Mapping[str, Any]) -> list[str]:
    """What the scores of a model say, for readers who do not know them."""
    figures = model["figures"]
    sentences = []
    if "wikitext" in figures:
        sentences += _wikitext_in_words(figures["wikitext"], model.get("vocab_size"))
    if "lambada" in figures:
        sentences.append(_lambada_in_words(figures["lambada"]["acc"]))
    if "hellaswag" in figures:
        sentences.append(_hellaswag_in_words(figures["hellaswag"]["acc_norm"], model["items"]["hellaswag"]))
    return sentences + _choices_in_words({task: figures[task] for task in figures if task not in TITLES})


def _choices_in_words(tasks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Which multiple-choice tasks of the harness a model can do at all."""
    verdicts: dict[str, list[str]] = {}
    for task, figures in tasks.items():
        if "acc_above_chance" in figures:
            figure = figures.get("acc_norm_above_chance", figures["acc_above_chance"])
            better = (figure["interval"] or [0.0])[0] > 0
            verdicts.setdefault("better than guessing" if better else _RANDOM, []).append(task)
    return [f"It is {verdict} at {', '.join(names)}." for verdict, names in sorted(verdicts.items())]


def shows_chance(results: Mapping[str, Any]) -> bool:
    """Whether a score of the results is above chance, which needs an explanation."""
    figures = next(iter(results["models"].values()))["figures"]
    return any("acc_above_chance" in figures[task] for task in figures)


def _wikitext_in_words(figures: Mapping[str, Any], vocab_size: int | None) -> list[str]:
    bits, tokens = figures["bits_per_byte"], figures["token_perplexity"]["value"]
    compressed = f"It needs {score_text(bits)} bits per byte of WikiText, where plain text has 8."
    if vocab_size is None:
        return [compressed]
    if tokens is None or tokens >= vocab_size:
        return [compressed, f"It predicts the next token worse than picking one of all {vocab_size:,} at random."]
    unsure = "On average it is as unsure about the next token as if it picked at random"
    return [compressed, f"{unsure} among {max(1, round(tokens)):,} of all {vocab_size:,}."]


def _lambada_in_words(accuracy: Mapping[str, Any]) -> str:
    if accuracy["value"] == 0:
        return f"It completes none of {accuracy['items']:,} LAMBADA passages."
    return f"It completes {score_text(accuracy)} of the LAMBADA passages with the right word."


def _hellaswag_in_words(accuracy: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> str:
    chance = sum(1 / len(item["loglikelihoods"]) for item in items) / len(items)
    found = f"It finds the right ending of {score_text(accuracy)} of the HellaSwag stories"
    low = (accuracy["interval"] or [0.0])[0]
    verdict = f"better than guessing ({chance:.0%})" if low > chance else f"{_RANDOM} ({chance:.0%})"
    return f"{found}: {verdict}."
