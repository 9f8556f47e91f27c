"""What the quickstart offers after training: pictures, and a chat or a prompt."""

from pathlib import Path
from types import SimpleNamespace

import pytest

import quickstart


class Route:
    def __init__(self) -> None:
        self.attached: list[tuple[str, list[str]]] = []

    def attach(self, name: str, arguments: list[str]) -> None:
        self.attached.append((name, arguments))


def built(folder: Path, *, has_conversations: bool = True, has_questions: bool = True) -> SimpleNamespace:
    source = SimpleNamespace(
        conversations="c.jsonl" if has_conversations else None, questions="q.json" if has_questions else None
    )
    stages = SimpleNamespace(folder=folder, run_of=lambda name: folder / name, log_of=lambda run: run / "log.jsonl")
    return SimpleNamespace(source=source, stages=stages, route=Route())


@pytest.mark.parametrize(
    ("offer", "answer", "is_tuned", "run"),
    [
        (True, "", True, "sft"),
        (True, "Y", False, "train"),
        (True, "N", True, None),
        (True, "q", True, None),
        (False, "n", True, "sft"),
    ],
)
def test_a_chat_or_a_prompt_opens_unless_refused(tmp_path, monkeypatch, capsys, offer, answer, is_tuned, run):
    monkeypatch.setattr(quickstart, "ask", lambda question: answer)
    parts = built(tmp_path, has_conversations=is_tuned)
    quickstart.talk(parts, offer=offer)
    expected = [] if run is None else [("inference", ["--checkpoint", str(tmp_path / run)])]
    assert parts.route.attached == expected
    said = "" if run is None else "\nAsk it something; q to quit.\n" if is_tuned else "\nStart a text; q to quit.\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("has_questions", [True, False])
def test_scores_are_drawn_at_the_last_step_of_tuning(tmp_path, monkeypatch, has_questions):
    drawn: list[tuple] = []
    monkeypatch.setattr(quickstart.summary, "draw_losses", lambda *arguments: drawn.append(arguments))
    monkeypatch.setattr(quickstart.summary, "draw_scores", lambda *arguments: drawn.append(arguments))
    monkeypatch.setattr(quickstart, "validation_losses", lambda log: [(10, 3.0), (20, 2.5)])
    (tmp_path / "score.json").write_text('{"tuned": 1}')
    quickstart.draw_pictures(built(tmp_path, has_questions=has_questions))
    expected = [(tmp_path / "loss.png", tmp_path / "train" / "log.jsonl")]
    expected += [(tmp_path / "score.png", {"tuned": 1}, 20)] if has_questions else []
    assert drawn == expected


@pytest.mark.parametrize(("is_finished", "trains"), [(True, False), (False, True)])
def test_a_finished_model_is_not_trained_again(monkeypatch, capsys, is_finished, trains):
    trained, talks = [], []
    monkeypatch.setattr(quickstart, "build", lambda args, screen: SimpleNamespace(is_finished=is_finished))
    monkeypatch.setattr(quickstart, "train", lambda parts, screen: trained.append(parts))
    monkeypatch.setattr(quickstart, "describe", lambda parts: "the summary")
    monkeypatch.setattr(quickstart, "talk", lambda parts, *, offer: talks.append(offer))
    assert quickstart.main([]) == 0
    assert bool(trained) == trains
    assert ("use --again" in capsys.readouterr().out) == is_finished
    assert not talks  # nobody is at a terminal
    monkeypatch.setattr(quickstart.sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(quickstart, "Screen", lambda output: SimpleNamespace(is_terminal=True))
    quickstart.main([])
    assert talks == [is_finished]  # offered only if it was finished before
