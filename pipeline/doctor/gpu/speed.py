"""How fast the device trains and writes, against its peak, its memory's bandwidth, and other programs.

rows = measure_training(Trial(device="cuda", scale=FULL, folder=folder), 1)
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace

import torch

from model import TransformerLM
from pipeline.doctor.gpu.synthetic_run import config_of
from pipeline.doctor.gpu.train_step_contenders import CONTENDERS, Timing, Workload, random_ids, time_steps
from pipeline.doctor.gpu.trial import Row, Trial, Verdict, aim, measured, skipped
from pipeline.generation.batch_generator import BatchGenerator
from pipeline.generation.settings import GenerationSettings
from pipeline.modeling.config import ModelConfig
from pipeline.modeling.execution import Execution
from pipeline.modeling.flops import training_flops_per_token
from pipeline.modeling.memory_estimate import parameters_by_part, training_memory
from pipeline.modeling.summary import EXPECTED_UTILISATION
from utils.devices import choose_dtype, describe_device, peak_flops, resolve_device
from utils.terminal import format_bytes, format_count

# What good implementations reach on an H100 (llm.c's share of the peak on an A100 is about 60%).
H100_UTILISATION = 0.55
H100_TOKENS = {"110M": 680_000.0}  # a second
BANDWIDTH_SHARE = 0.5  # of what the memory allows, at batch 1
COMPARED_PRESET = 1  # what others are compared at, and what writes
BATCHES = (1, 32)
_MEMORY_SHARE = 0.8  # of the device's memory, for a training step


def measure_training(trial: Trial, number: int) -> list[Row]:
    """Tokens a second, model FLOPs utilisation and the time of compiling, for preset `number`."""
    preset = trial.scale.presets[number]
    work = workload(trial, number)
    if work is None:
        return [skipped(f"{preset.name}, training", "one window does not fit into the memory")]
    timing = time_steps(CONTENDERS["ours"](work), work.ids.device, steps=trial.scale.timed_steps)
    speed = work.ids.numel() / timing.median
    _remember(trial, preset.name, speed)
    rows = [
        _speed_row(f"{preset.name}, training", speed, preset.name, work.ids.device),
        _utilisation_row(f"{preset.name}, utilisation", speed, work),
        measured(f"{preset.name}, memory", f"{format_bytes(timing.memory)}, {len(work.ids)} rows", bytes=timing.memory),
    ]
    return rows + ([_compile_row(preset.name, timing)] if work.compiled else [])


def workload(trial: Trial, number: int) -> Workload | None:
    """Preset `number` with as many rows as fit; None if not even one does."""
    config = config_of(trial, trial.scale.presets[number])
    device = resolve_device(trial.device)
    model = replace(config.model, max_position_embeddings=trial.scale.window)
    dtype = str(choose_dtype("auto", device)).removeprefix("torch.")
    rows = fitting_rows(model, config.training.batch_size, trial.scale.window, _memory_of(device))
    if not rows:
        return None
    ids = random_ids(model, rows, trial.scale.window, device)
    return Workload(model, ids, dtype=dtype, compiled=trial.scale.compiled)


def fitting_rows(model: ModelConfig, rows: int, length: int, memory: float) -> int:
    """`rows`, or a half, a quarter, … of them, whose training step is expected to fit; 0 if none does."""
    while rows and sum(training_memory(model, batch_size=rows, length=length).values()) > _MEMORY_SHARE * memory:
        rows //= 2
    return rows


def _memory_of(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float("inf")


def _speed_row(what: str, speed: float, preset: str, device: torch.device) -> Row:
    found = f"{speed:,.0f} tokens/s"
    target = H100_TOKENS.get(preset) if "H100" in describe_device(device) else None
    if target is None:
        return measured(what, found, tokens_per_second=speed)
    return aim(what, found, speed, target, f"{format_count(target)} tokens/s")


def _utilisation_row(what: str, speed: float, work: Workload) -> Row:
    peak = peak_flops(work.ids.device)
    if peak is None:
        return measured(what, "the device's peak is not known")
    share = speed * training_flops_per_token(work.model, work.ids.shape[1]) / peak
    target = H100_UTILISATION if "H100" in describe_device(work.ids.device) else EXPECTED_UTILISATION
    return aim(what, f"{share:.1%} of the peak", share, target, f"{target:.0%}")


def _compile_row(preset: str, timing: Timing) -> Row:
    return measured(f"{preset}, first step (compiles)", f"{timing.first:.0f} s", seconds=timing.first)


# ---- others, in the same run


def compare_nanogpt(trial: Trial) -> list[Row]:
    return _compare(trial, "nanogpt", str(trial.nanogpt))


def compare_nanochat(trial: Trial) -> list[Row]:
    return _compare(trial, "nanochat", str(trial.nanochat))


def _compare(trial: Trial, name: str, folder: str) -> list[Row]:
    """Their training step at the shape of preset `COMPARED_PRESET`, and how much faster ours was."""
    preset = trial.scale.presets[COMPARED_PRESET].name
    work = workload(trial, COMPARED_PRESET)
    if work is None:
        return [skipped(name, "one window does not fit into the memory")]
    work = replace(work, folder=folder)
    os.environ["NANOCHAT_DTYPE"] = work.dtype  # where nanochat looks for it
    timing = time_steps(CONTENDERS[name](work), work.ids.device, steps=trial.scale.timed_steps)
    speed = work.ids.numel() / timing.median
    found = f"{speed:,.0f} tokens/s, {format_bytes(timing.memory)}"
    rows = [measured(f"{name} at {preset}", found, tokens_per_second=speed, bytes=timing.memory)]
    ours = _remembered(trial).get(preset)
    if ours is None:
        return [*rows, skipped(f"ours against {name}", f"ours was not measured; leave out --only or add {preset}")]
    return [*rows, aim(f"ours against {name}", f"{ours / speed:.2f} times as fast", ours / speed, 1.0, "as fast")]


def _remember(trial: Trial, preset: str, speed: float) -> None:
    speeds = {**_remembered(trial), preset: speed}
    (trial.folder / "speeds.json").write_text(json.dumps(speeds), encoding="utf-8")


def _remembered(trial: Trial) -> Mapping[str, float]:
    """The training speeds that earlier steps of this trial measured, by preset."""
    path = trial.folder / "speeds.json"
    speeds: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return speeds


# ---- writing


def measure_decoding(trial: Trial) -> list[Row]:
    """Tokens a second at batch 1 and 32, against reading the weights and the cache once a token."""
    device = resolve_device(trial.device)
    preset = trial.scale.presets[COMPARED_PRESET]
    config = replace(config_of(trial, preset).model, max_position_embeddings=trial.scale.window)
    torch.manual_seed(0)
    model = TransformerLM(config).to(device, choose_dtype("auto", device)).eval()
    model.run_as(Execution())
    bandwidth = copying_speed(trial, device)
    rows = [measured("memory bandwidth", f"{format_bytes(bandwidth)}/s", bytes_per_second=bandwidth)]
    for batch in BATCHES:
        _decode(trial, model, batch)  # what the first time allocates does not count
        speed = _decode(trial, model, batch)
        limit = batch * bandwidth / bytes_per_step(trial, config, batch, model.dtype.itemsize)
        rows.append(_decoding_row(f"{preset.name}, writing {batch} rows", speed, limit, batch, device))
    return rows


def _decode(trial: Trial, model: TransformerLM, batch: int) -> float:
    """Tokens a second of all rows together, the reading of the prompts left out."""
    scale = trial.scale
    settings = GenerationSettings(max_length=scale.new_tokens, temperature=0.0, ignore_eos=True)
    generator = BatchGenerator(model, max_rows=batch, max_length=scale.prompt + scale.new_tokens)
    for _ in range(batch):
        generator.join([1 + place % 100 for place in range(scale.prompt)], settings)
    while generator.num_rows == batch and len(generator.step()) < batch:  # prompts are read a few at a time
        pass
    written, start = 0, time.perf_counter()
    while generator.num_rows == batch:
        written += len(generator.step())  # `tolist` in it waits for the device
    return written / (time.perf_counter() - start)


def bytes_per_step(trial: Trial, config: ModelConfig, batch: int, bytes_per_value: int) -> float:
    """What one step for `batch` rows must read at least: the weights, and each row's cache at half of its length."""
    weights = sum(parameters_by_part(config).values())
    length = trial.scale.prompt + trial.scale.new_tokens / 2
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * length * batch
    return bytes_per_value * (weights + cache)


def copying_speed(trial: Trial, device: torch.device) -> float:
    """Bytes a second that the device's memory reads and writes, the best of five copies."""
    source = torch.ones(trial.scale.copied_bytes // 4, device=device)
    target = torch.empty_like(source)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        target.copy_(source)
        target[0].item()  # waits for the device
        times.append(time.perf_counter() - start)
    return 2 * source.nbytes / min(times[1:])


def _decoding_row(what: str, speed: float, limit: float, batch: int, device: torch.device) -> Row:
    found = f"{speed:,.0f} tokens/s, {speed / limit:.1%} of the limit"
    if device.type != "cuda" or batch > 1:
        return measured(what, found, tokens_per_second=speed, limit=limit)
    verdict: Verdict = "pass" if speed >= BANDWIDTH_SHARE * limit else "below aim"
    values = {"tokens_per_second": speed, "limit": limit}
    return Row(what, found, f"at least {BANDWIDTH_SHARE:.0%} of the limit", verdict, values)
