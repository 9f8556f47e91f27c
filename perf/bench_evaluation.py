"""Compare the benchmark's speed with lm-evaluation-harness: same model, items and threads, tokenizing included.

    LLM_REAL_DATA=DIR python perf/bench_evaluation.py [--items 100] [--rounds 3]

Needs `lm_eval`. The model is the 25M one with random weights: speed does not depend on what it learned.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from export import export_to_hf
from pipeline.configuration import load_config
from pipeline.evaluation.benchmark_sets import load_sets
from pipeline.evaluation.scoring import Scorer, encode_pairs
from pipeline.evaluation.task import evenly_spaced
from pipeline.evaluation.wikitext_perplexity import rolling_requests
from pipeline.generation.loading import LoadedModel

Work = Callable[[], object]


class Instance:
    """A request as the harness takes it."""

    def __init__(self, *arguments: str) -> None:
        self.args = arguments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if "LLM_REAL_DATA" not in os.environ:
        sys.exit("error: LLM_REAL_DATA is not set; expected a folder with wikitext/, lambada/ and hellaswag/")
    data = Path(os.environ["LLM_REAL_DATA"])
    with tempfile.TemporaryDirectory() as folder:
        loaded = random_model(Path(folder), data / "tokenizer" / "codellama_reconstructed.model")
        for task, (ours, theirs) in tasks(loaded, harness_model(loaded), data, args.items).items():
            print(json.dumps({"task": task, **compare(ours, theirs, args.rounds)}), flush=True)


def random_model(folder: Path, tokenizer_file: Path) -> LoadedModel:
    import torch

    from model import create_model
    from tokenizer import WikipediaTokenizer

    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.model").write_bytes(tokenizer_file.read_bytes())
    torch.manual_seed(0)
    config = load_config()
    tokenizer = WikipediaTokenizer(folder / "tokenizer")
    return LoadedModel("m", folder, create_model(config).eval(), tokenizer, {"config": config.to_dict()})


def harness_model(loaded: LoadedModel):
    """The same model as the harness loads it, by way of an export."""
    from lm_eval.models.huggingface import HFLM

    export_to_hf(loaded, loaded.path / "hf")
    folder = str(loaded.path / "hf")
    return HFLM(pretrained=folder, dtype="float32", device="cpu", batch_size=8, add_bos_token=True)


def tasks(loaded: LoadedModel, harness, data: Path, num_items: int) -> dict[str, tuple[Work, Work]]:
    """For each task what we run and what the harness runs, on the same items."""
    model, tokenizer = loaded.model, loaded.tokenizer
    names = ["wikitext", "lambada", "hellaswag"]
    loaded_sets = load_sets(names, data_dir=data, preset="full", offline_samples=False)
    sets = {benchmark.name: evenly_spaced(benchmark.items, num_items) for benchmark in loaded_sets}
    pairs = {
        "LAMBADA": [item.at_space for item in sets["lambada"]],
        "HellaSwag": [(item.context, f" {ending}") for item in sets["hellaswag"] for ending in item.endings],
    }
    pages = [page.text for page in evenly_spaced(sets["wikitext"], max(1, num_items // 50))]

    def score_pages() -> None:
        window = Scorer(model).window
        Scorer(model).score([request for page in pages for request in rolling_requests(tokenizer, page, window=window)])

    work: dict[str, tuple[Work, Work]] = {
        name: (
            lambda texts=texts: Scorer(model).score(encode_pairs(tokenizer, texts)),
            lambda texts=texts: harness.loglikelihood([Instance(*text) for text in texts], disable_tqdm=True),
        )
        for name, texts in pairs.items()
    }
    work["WikiText"] = (
        score_pages,
        lambda: harness.loglikelihood_rolling([Instance(page) for page in pages], disable_tqdm=True),
    )
    return work


def compare(ours: Work, theirs: Work, rounds: int) -> dict[str, object]:
    """Median seconds of both, and the median and range of their ratio within a round."""
    times = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    ratios = [harness / own for own, harness in times]
    return {
        "ours": round(statistics.median(own for own, _ in times), 2),
        "harness": round(statistics.median(harness for _, harness in times), 2),
        "ratio": round(statistics.median(ratios), 2),
        "range": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def seconds(work: Work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
