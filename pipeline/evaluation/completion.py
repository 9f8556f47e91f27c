"""Text completion: the model continues the start of a WikiText passage, and the result is compared with the original.

BLEU is from sacrebleu and ROUGE from rouge-score, both from 0 to 100. Decoding is greedy, so the seed does not matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.evaluation.statistics import AnyFigure, BleuFigure, Figure
from pipeline.evaluation.task import TaskResult, evenly_spaced
from pipeline.evaluation.wikitext_perplexity import Page, detokenize_wikitext
from pipeline.generation.generate import encode_prompt, generate_batch
from pipeline.generation.settings import GenerationSettings
from pipeline.tokenization.interface import Tokenizer

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEUScore

    from model import TransformerLM

PROMPT_WORDS = 32
REFERENCE_WORDS = 32
MAX_PASSAGES = 100
ROUGE = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True)
class Passage:
    prompt: str
    reference: str


def passages_of(pages: Sequence[Page], limit: int) -> list[Passage]:
    """Passages from WikiText paragraphs that are long enough for a prompt and a continuation."""
    needed = PROMPT_WORDS + REFERENCE_WORDS
    found = []
    for page in pages:
        for line in page.raw.split("\n"):
            words = detokenize_wikitext(line).split()
            if len(words) >= needed and not line.strip().startswith("="):
                found.append(Passage(" ".join(words[:PROMPT_WORDS]), " ".join(words[PROMPT_WORDS:needed])))
    return evenly_spaced(found, min(limit, len(found)))


def score_completion(model: "TransformerLM", tokenizer: Tokenizer, passages: Sequence[Passage]) -> TaskResult:
    """BLEU and ROUGE of the generated text, cut to the number of words in the reference."""
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.bleu import BLEU

    written = _continuations(model, tokenizer, passages)
    pairs = [(passage.reference, text) for passage, text in zip(passages, written, strict=True)]
    rouge = RougeScorer(list(ROUGE), use_stemmer=True)
    scores = [rouge.score(reference, text) for reference, text in pairs]
    bleu = BLEU(effective_order=True)
    figures: dict[str, AnyFigure] = {
        "bleu": bleu_figure([bleu.sentence_score(text, [reference]) for reference, text in pairs])
    }
    for name in ROUGE:
        figures[name] = Figure([100 * score[name].fmeasure for score in scores], unit="points")
    records: list[dict[str, object]] = [
        {"prompt": passage.prompt, "reference": passage.reference, "written": text}
        for passage, text in zip(passages, written, strict=True)
    ]
    return TaskResult(figures, records)


def _continuations(model: "TransformerLM", tokenizer: Tokenizer, passages: Sequence[Passage]) -> list[str]:
    """Greedy continuations, cut to the length of the references."""
    context_length = model.config.context_length
    new_tokens = min(3 * REFERENCE_WORDS, context_length // 2)
    # A prompt that does not fit into the context loses its start.
    prompts = [encode_prompt(tokenizer, passage.prompt)[new_tokens - context_length :] for passage in passages]
    settings = GenerationSettings(max_length=new_tokens, temperature=0.0)
    texts = map(tokenizer.decode, generate_batch(model, prompts, settings, tokenizer=tokenizer))
    return [" ".join(text.split()[:REFERENCE_WORDS]) for text in texts]


def bleu_figure(sentences: "Sequence[BLEUScore]") -> BleuFigure:
    """The counts summed by corpus BLEU, from sacrebleu's score of each sentence."""
    return BleuFigure(
        counts=np.array([sentence.counts for sentence in sentences]),
        totals=np.array([sentence.totals for sentence in sentences]),
        lengths=np.array([[sentence.sys_len, sentence.ref_len] for sentence in sentences]),
    )
