"""Text completion: a passage's beginning goes in, its real continuation is compared with what the model writes.

BLEU by sacrebleu and ROUGE by rouge-score, both from 0 to 100. Greedy, so the same for every seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.items import Page, detokenize_wikitext, evenly_spaced
from pipeline.evaluation.statistics import BleuFigure, Figure
from pipeline.evaluation.tasks import TaskResult
from pipeline.generation.generate import encode_prompt, generate_batch
from pipeline.generation.settings import GenerationSettings

if TYPE_CHECKING:
    from model import TransformerLM
    from tokenizer import WikipediaTokenizer

PROMPT_WORDS = REFERENCE_WORDS = 32
MAX_PASSAGES = 100
ROUGE = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True)
class Passage:
    prompt: str
    reference: str


def passages_of(pages: Sequence[Page], limit: int) -> list[Passage]:
    """Passages from WikiText's paragraphs that are long enough for a beginning and a continuation."""
    needed = PROMPT_WORDS + REFERENCE_WORDS
    found = []
    for page in pages:
        for line in page.raw.split("\n"):
            words = detokenize_wikitext(line).split()
            if len(words) >= needed and not line.strip().startswith("="):
                found.append(Passage(" ".join(words[:PROMPT_WORDS]), " ".join(words[PROMPT_WORDS:needed])))
    return evenly_spaced(found, min(limit, len(found)))


def score_completion(
    model: "TransformerLM", tokenizer: "WikipediaTokenizer", passages: Sequence[Passage]
) -> TaskResult:
    """BLEU and ROUGE of the first words that the model writes, as many as the reference has."""
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU

    new = min(3 * REFERENCE_WORDS, model.config.context_length // 2)
    # A prompt that the context does not hold loses its beginning.
    prompts = [encode_prompt(tokenizer, each.prompt)[new - model.config.context_length :] for each in passages]
    settings = GenerationSettings(max_length=new, temperature=0.0)
    written = []
    for ids in generate_batch(model, prompts, settings, tokenizer=tokenizer):
        text = tokenizer.decode(ids)
        written.append(" ".join(text.split()[:REFERENCE_WORDS]))
    references = [passage.reference for passage in passages]
    rouge = RougeScorer(list(ROUGE), use_stemmer=True)
    scores = [rouge.score(reference, text) for reference, text in zip(references, written, strict=True)]
    bleu = BLEU(effective_order=True)
    sentences = [bleu.sentence_score(text, [reference]) for text, reference in zip(written, references, strict=True)]
    figures: dict[str, Any] = {"bleu": _bleu_figure(sentences)}
    for name in ROUGE:
        figures[name] = Figure([100 * score[name].fmeasure for score in scores], unit="points")
    items = [
        {"prompt": passage.prompt, "reference": passage.reference, "written": text}
        for passage, text in zip(passages, written, strict=True)
    ]
    return TaskResult(figures, items)


def _bleu_figure(sentences: Sequence[Any]) -> BleuFigure:
    """The counts that corpus BLEU adds up, from sacrebleu's score of each sentence."""
    return BleuFigure(
        counts=np.array([each.counts for each in sentences]),
        totals=np.array([each.totals for each in sentences]),
        lengths=np.array([[each.sys_len, each.ref_len] for each in sentences]),
    )
