"""WikiText-103: perplexities, bits per byte, and top-k accuracy of the next token.

(Merity et al. 2016, arXiv:1609.07843.) Documents are split, detokenized and scored in rolling windows like in
lm-evaluation-harness 0.4.13, so that the scores agree. The corrected scores omit the BOS that the harness scores as if
it were text.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.evaluation.scoring import Request, Score, Scorer, encode_with_bos, regroup
from pipeline.evaluation.statistics import Figure
from pipeline.evaluation.task import HubSource, Row, Task, TaskResult
from pipeline.tokenization.interface import Tokenizer
from utils.errors import PipelineError

TOP_K = (1, 5, 10)


@dataclass(frozen=True)
class Page:
    """A document: `raw` for counting words and bytes, `text` for scoring."""

    raw: str

    @property
    def text(self) -> str:
        return detokenize_wikitext(self.raw)

    @property
    def num_words(self) -> int:
        return len(re.split(r"\s+", self.raw))

    @property
    def num_bytes(self) -> int:
        return len(self.raw.encode("utf-8"))


class WikiText(Task[Page]):
    name = "wikitext"
    hub = HubSource("Salesforce/wikitext", "wikitext-103-raw-v1", "test")

    def choose_files(self, paths: Sequence[Path]) -> Sequence[Path]:
        """A single split: the test split if it exists."""
        tests = [path for path in paths if "test" in path.name]
        return (tests or paths)[:1] if len(paths) > 1 else paths

    def read(self, path: Path) -> list[Row]:
        try:
            text = path.read_bytes().decode("utf-8")  # read_text would convert carriage returns to newlines
        except UnicodeDecodeError as error:
            raise PipelineError(
                f"{path} is not valid UTF-8 (at byte {error.start:,}); expected the original raw split"
            ) from None
        if not text.strip():
            raise PipelineError(f"{path} is empty; expected the original raw split")
        return [{"text": text}]

    def items(self, rows: Iterable[Row], *, is_whole_set: bool) -> list[Page]:
        """Documents for the whole set; lines for a preset, which needs more items than there are documents."""
        text = "".join(row["text"] for row in rows)
        pages = wikitext_pages(text) if is_whole_set else wikitext_lines(text)
        return [Page(page) for page in pages]

    def score(self, scorer: Scorer, tokenizer: Tokenizer, items: Sequence[Page]) -> TaskResult:
        requests = [rolling_requests(tokenizer, page.text, window=scorer.window) for page in items]
        flat = scorer.score([request for page in requests for request in page], label="WikiText")
        scored = [
            _scored_page(page, scores)
            for page, scores in zip(items, regroup(flat, list(map(len, requests))), strict=True)
        ]
        records: list[dict[str, object]] = [
            {"loglikelihood": -page.loss, "words": page.words, "bytes": page.num_bytes, "tokens": page.tokens}
            for page in scored
        ]
        return TaskResult(_perplexities(scored) | _next_token_figures(scored), records)


@dataclass(frozen=True)
class _ScoredPage:
    """The values of a page needed for the scores. `loss` includes the BOS; `text_loss` and `hits` do not."""

    words: int
    num_bytes: int
    tokens: int
    loss: float
    text_loss: float
    hits: tuple[float, ...]  # for each of TOP_K, the number of tokens in the top k


def _scored_page(page: Page, scores: Sequence[Score]) -> _ScoredPage:
    logprobs = np.concatenate([score.logprobs for score in scores]).astype(np.float64)
    hits = (np.concatenate([score.top_chance(k) for score in scores])[1:].sum() for k in TOP_K)
    return _ScoredPage(
        words=page.num_words,
        num_bytes=page.num_bytes,
        tokens=len(logprobs) - 1,
        loss=-float(logprobs.sum()),
        text_loss=-float(logprobs[1:].sum()),
        hits=tuple(map(float, hits)),
    )


def _perplexities(pages: Sequence[_ScoredPage]) -> dict[str, Figure]:
    losses = [page.loss for page in pages]
    text_losses = [page.text_loss for page in pages]
    words = [page.words for page in pages]
    num_bytes = [page.num_bytes for page in pages]
    tokens = [page.tokens for page in pages]
    corrected = "without the <s> that the harness scores as text"
    by_token = "comparable only for the same tokenizer"
    return {
        "bits_per_byte": Figure(losses, num_bytes, "bits", higher_is_better=False, unit="bits"),
        "word_perplexity": Figure(losses, words, "exp", higher_is_better=False),
        "byte_perplexity": Figure(losses, num_bytes, "exp", higher_is_better=False),
        "word_perplexity_corrected": Figure(text_losses, words, "exp", higher_is_better=False, note=corrected),
        "token_perplexity": Figure(text_losses, tokens, "exp", higher_is_better=False, note=by_token),
    }


def _next_token_figures(pages: Sequence[_ScoredPage]) -> dict[str, Figure]:
    """The share of tokens that are in the model's top k."""
    tokens = [page.tokens for page in pages]
    return {
        f"next_token_top{k}": Figure([page.hits[place] for page in pages], tokens, unit="share")
        for place, k in enumerate(TOP_K)
    }


def rolling_requests(tokenizer: Tokenizer, text: str, *, window: int) -> list[Request]:
    """Score every token of a text once, in blocks of `window` tokens, each given the token before it.

    The last block is shorter and gets as much context as fits in the window. Like in the harness with
    ``add_bos_token=True`` (0.4.13), the text's BOS, the first token of the first block, is scored as if it were text
    after another BOS; the corrected scores omit it.
    """
    tokens = encode_with_bos(tokenizer, [text])[0]
    requests = [Request((tokenizer.bos_id,), tokens[:window])]
    for start in range(window, len(tokens), window):
        end = min(start + window, len(tokens))
        requests.append(Request(tokens[end - window - 1 : start], tokens[start:end]))
    return requests


def wikitext_pages(text: str) -> list[str]:
    """The documents of a raw split. Each starts at a line ``= Title =``; text before the first is a document too."""
    pages: list[str] = []
    lines: list[str] = []
    for line in text.split("\n"):
        heading = line.replace("= = =", "===").replace("= =", "==").strip()
        if heading.startswith("= ") and heading.endswith(" ="):
            pages.append("\n".join(lines))
            lines = []
        lines.append(line)
    # The harness's copy of the set omits blank documents, except for the last one.
    return [page for page in pages if page.strip()] + ["\n".join(lines)]


def wikitext_lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


_REPLACEMENTS = (
    (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."),
    (" : ", ": "), (" ; ", "; "), (" . ", ". "), (" ! ", "! "), (" ? ", "? "), (" , ", ", "),
)  # fmt: skip
_PAIRS = (
    (r"\(\s*([^\)]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
    (r"{\s*([^}]*?)\s*}", r"{\1}"),
    (r"\"\s*([^\"]*?)\s*\"", r'"\1"'),
    (r"'\s*([^']*?)\s*'", r"'\1'"),
)
_REST = (
    ("= = = =", "===="), ("= = =", "==="), ("= =", "=="), (" ° ", "°"),
    (" \n", "\n"), ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s"),
)  # fmt: skip


def detokenize_wikitext(text: str) -> str:
    """Undo WikiText's spaced punctuation with the harness's replacements, in its order."""
    text = text.replace("s '", "s'")
    text = re.sub(r"/' [0-9]/", r"/'[0-9]/", text)
    for found, replacement in _REPLACEMENTS:
        text = text.replace(found, replacement)
    for pattern, replacement in _PAIRS:
        text = re.sub(pattern, replacement, text)
    for found, replacement in _REST:
        text = text.replace(found, replacement)
    return text
