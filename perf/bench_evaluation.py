"""The benchmark's speed beside lm-evaluation-harness: the same model, items and threads; seconds, the tokenizing in it.

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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    import torch
    from lm_eval.models.huggingface import HFLM

    from export import export_to_hf
    from model import create_model
    from pipeline.configuration import load_config
    from pipeline.evaluation.benchmark_sets import load_sets
    from pipeline.evaluation.scoring import Scorer, encode_pairs
    from pipeline.evaluation.task import evenly_spaced
    from pipeline.evaluation.wikitext_perplexity import rolling_requests
    from pipeline.generation.loading import LoadedModel
    from tokenizer import WikipediaTokenizer

    if "LLM_REAL_DATA" not in os.environ:
        sys.exit("error: LLM_REAL_DATA is not set; expected a folder with wikitext/, lambada/ and hellaswag/")
    data = Path(os.environ["LLM_REAL_DATA"])
    folder = Path(tempfile.mkdtemp())
    (folder / "tokenizer").mkdir()
    source = data / "tokenizer" / "codellama_reconstructed.model"
    (folder / "tokenizer" / "tokenizer.model").write_bytes(source.read_bytes())
    tokenizer = WikipediaTokenizer(folder / "tokenizer")
    torch.manual_seed(0)
    config = load_config()
    model = create_model(config).eval()
    export_to_hf(LoadedModel("m", folder, model, tokenizer, {"config": config.to_dict()}), folder / "hf")
    harness = HFLM(pretrained=str(folder / "hf"), dtype="float32", device="cpu", batch_size=8, add_bos_token=True)

    sets = {
        benchmark.name: evenly_spaced(benchmark.items, args.items)
        for benchmark in load_sets(
            ["wikitext", "lambada", "hellaswag"], data_dir=data, preset="full", offline_samples=False
        )
    }
    pairs = {
        "LAMBADA": [item.at_space for item in sets["lambada"]],
        "HellaSwag": [(item.context, f" {ending}") for item in sets["hellaswag"] for ending in item.endings],
    }
    pages = [page.text for page in evenly_spaced(sets["wikitext"], max(1, args.items // 50))]

    class Instance:
        def __init__(self, *arguments: str) -> None:
            self.args = arguments

    def ours_rolling() -> None:
        requests = [
            request for page in pages for request in rolling_requests(tokenizer, page, window=Scorer(model).window)
        ]
        Scorer(model).score(requests)

    work = {
        name: (
            lambda texts=texts: Scorer(model).score(encode_pairs(tokenizer, texts)),
            lambda texts=texts: harness.loglikelihood([Instance(*text) for text in texts], disable_tqdm=True),
        )
        for name, texts in pairs.items()
    }
    work["WikiText"] = (
        ours_rolling,
        lambda: harness.loglikelihood_rolling([Instance(page) for page in pages], disable_tqdm=True),
    )
    for name, (ours, theirs) in work.items():
        seconds = {"ours": [], "harness": []}
        for _ in range(args.rounds):
            for side, run in (("ours", ours), ("harness", theirs)):
                started = time.perf_counter()
                run()
                seconds[side].append(time.perf_counter() - started)
        ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["harness"], strict=True)]
        medians = {side: round(statistics.median(runs), 2) for side, runs in seconds.items()}
        spread = [round(min(ratios), 2), round(max(ratios), 2)]
        print(json.dumps({"task": name, **medians, "ratio": round(statistics.median(ratios), 2), "range": spread}))


if __name__ == "__main__":
    main()
