"""Measure generation: ours (plain, compiled, int8) next to transformers with the same weights.

    python3 perf/bench_generation.py                        # one row, batches, sampling; CPU, 24.9M parameters
    python3 perf/bench_generation.py --quality CHECKPOINT CLEANED_FILE    # size and perplexity of int8

Each round runs every variant once, so that other work on the machine slows all of them. Tables show medians over the
rounds; ratios are medians of the ratios within a round.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from model import TransformerLM, create_model, load_model
from pipeline.configuration import load_config
from pipeline.doctor.gpu.llama_config import llama_config
from pipeline.exporting.hf_names import to_hf_names
from pipeline.formats.cleaned_text import from_line
from pipeline.generation.batch_generator import BatchGenerator
from pipeline.generation.compiled_decode import compiled_decoder
from pipeline.generation.generate import GenerationSettings, stream_tokens
from pipeline.generation.sampling import sample_next_token
from pipeline.modeling.quantization import quantize_int8
from utils.terminal import format_bytes, format_table

PROMPT = torch.randint(3, 32_000, (32,), generator=torch.Generator().manual_seed(0)).tolist()
GREEDY = {"temperature": 0.0, "ignore_eos": True}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=200, help="new tokens in each run (%(default)s)")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--quality", nargs=2, metavar=("CHECKPOINT", "CLEANED_FILE"))
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.rounds} rounds\n")
    if args.quality:
        print(quality_table(*map(Path, args.quality)))
        return
    print(single_row_table(args.rounds, args.tokens), "\n", sep="")
    print(batch_table(args.rounds), "\n", sep="")
    print(sampling_table(args.rounds))


def new_model(dtype: str, *, quantize: bool = False) -> TransformerLM:
    torch.manual_seed(0)
    model = create_model(load_config()).to(DTYPES[dtype]).eval()
    if quantize:
        quantize_int8(model)
    return model


def transformers_model(model: TransformerLM):
    """transformers' Llama with the same weights."""
    from transformers import LlamaForCausalLM

    theirs = LlamaForCausalLM(llama_config(model.config)).to(model.dtype).eval()
    theirs.load_state_dict(to_hf_names(model.state_dict(), model.config), strict=False)
    theirs.generation_config.eos_token_id = None
    return theirs


def single_row_table(rounds: int, tokens: int) -> str:
    settings = GenerationSettings(max_length=tokens, **GREEDY)
    runs: dict[str, Callable[[], object]] = {}
    for dtype in DTYPES:
        model = new_model(dtype)
        theirs, ids = transformers_model(model), torch.tensor([PROMPT])
        runs[f"transformers, {dtype}"] = lambda theirs=theirs, ids=ids: theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=0
        )
        runs[f"ours, plain, {dtype}"] = _writing(model, settings, None)
        runs[f"ours, compiled, {dtype}"] = _writing(model, settings, compiled_decoder(model, "on"))
    model = new_model("float32", quantize=True)
    runs["ours, plain, int8"] = _writing(model, settings, None)
    if torch.backends.cpu.get_cpu_capability() == "AVX512":  # elsewhere int8 is not compiled
        runs["ours, compiled, int8"] = _writing(model, settings, compiled_decoder(model, "on"))
    speeds = _measure(runs, rounds, tokens)
    rows = [["batch 1, prompt 32", "tokens/s", "× transformers float32", "× transformers same type"]]
    for name, values in speeds.items():
        same = speeds.get(f"transformers, {name.rsplit(', ')[-1]}")
        ratios = [_ratio(values, base) if base else "" for base in (speeds["transformers, float32"], same)]
        rows.append([name, f"{statistics.median(values):.0f}", *ratios])
    return format_table(rows, right=(1, 2, 3))


def _writing(model: TransformerLM, settings: GenerationSettings, decoder) -> Callable[[], object]:
    return lambda: list(stream_tokens(model, PROMPT, settings, decoder=decoder))


def _measure(runs: dict[str, Callable[[], object]], rounds: int, tokens: int) -> dict[str, list[float]]:
    """Tokens per second of every run in every round, after one warm-up round."""
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:
                speeds[name].append(tokens / (time.perf_counter() - start))
    return speeds


def _ratio(values: Sequence[float], base: Sequence[float]) -> str:
    return f"{statistics.median(a / b for a, b in zip(values, base, strict=True)):.2f}"


def batch_table(rounds: int, tokens: int = 50) -> str:
    """Tokens per second of all rows of a batch together."""
    runs = {}
    for dtype in DTYPES:
        model = new_model(dtype)
        for count in (1, 4, 16):
            runs[f"{dtype}, {count} rows"] = lambda model=model, count=count: _write_batch(model, count, tokens)
    speeds = _measure(runs, rounds, tokens)
    rows = [["plain forward", "tokens/s, all rows", "× one row"]]
    for name, values in speeds.items():
        count = int(name.split()[1])
        total = [value * count for value in values]
        one = speeds[f"{name.split(',')[0]}, 1 rows"]
        rows.append([name, f"{statistics.median(total):.0f}", _ratio(total, one)])
    return format_table(rows, right=(1, 2))


def _write_batch(model: TransformerLM, count: int, tokens: int) -> None:
    batch = BatchGenerator(model, max_rows=count, max_length=len(PROMPT) + tokens)
    for row in range(count):
        batch.join(PROMPT, GenerationSettings(max_length=tokens, seed=row, ignore_eos=True))
    while batch.num_rows:
        batch.step()


def sampling_table(rounds: int) -> str:
    """Top-k before the sort that top-p needs, compared with sorting everything."""
    logits, uniform = torch.randn(16, 32_016), torch.rand(16)
    ways = {"top-k 50, top-p 0.95": {}, "top-p 0.95 alone (sorts all)": {"top_k": 0}}
    rows = [["sampling, 16 × 32,016", "ms"]]
    for name, options in ways.items():
        settings = [GenerationSettings(**options)] * 16
        times = []
        for _ in range(rounds + 1):
            start = time.perf_counter()
            for _ in range(20):
                sample_next_token(logits, settings, uniform=uniform)
            times.append((time.perf_counter() - start) / 20 * 1000)
        rows.append([name, f"{statistics.median(times[1:]):.2f}"])
    return format_table(rows, right=(1,))


def quality_table(checkpoint: Path, text_file: Path) -> str:
    """Size and perplexity of a checkpoint, in float32, bfloat16 and int8, on 16,384 tokens of a cleaned file."""
    from pipeline.generation.loading import load_for_inference

    tokenizer = load_for_inference(str(checkpoint), load_config(), device="cpu").tokenizer
    lines = text_file.read_text(encoding="utf-8").split("\n")[:2000]
    ids = [token for line in lines for token in tokenizer.encode(from_line(line), add_bos=True, add_eos=True)][:16_384]
    rows = [["weights", "size", "perplexity", "× float32"]]
    base = None
    for name in ("float32", "bfloat16", "int8"):
        model = load_model(checkpoint, dtype=DTYPES.get(name))
        if name == "int8":
            quantize_int8(model)
        size = sum(tensor.nbytes for tensor in model.state_dict().values())
        result = perplexity(model, ids)
        base = base or result
        rows.append([name, format_bytes(size), f"{result:.3f}", f"{result / base:.4f}"])
    return format_table(rows, right=(1, 2, 3))


@torch.inference_mode()
def perplexity(model: TransformerLM, ids: Sequence[int]) -> float:
    """Over separate windows of 512 tokens."""
    windows = [torch.tensor([ids[start : start + 512]]) for start in range(0, len(ids) - 1, 512)]
    losses = [model(window, labels=window)["loss"].float().item() * (window.shape[1] - 1) for window in windows]
    return torch.tensor(sum(losses) / sum(window.shape[1] - 1 for window in windows)).exp().item()


if __name__ == "__main__":
    main()
