"""Does the device compute what the CPU computes in float32, and does each fast way give what the plain one gives?

rows = compare_float32(Trial(device="cuda", scale=FULL, folder=folder))

Differences are relative: the norm of the difference over the norm of what is expected.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from model import TransformerLM
from pipeline.doctor.gpu.trial import Row, Trial, at_most, skipped
from pipeline.generation.batch_generator import BatchGenerator
from pipeline.generation.settings import GenerationSettings
from pipeline.modeling.attention_kernels import attend, segment_block_mask
from pipeline.modeling.config import ModelConfig
from pipeline.modeling.execution import Execution
from pipeline.modeling.flash_attention import check_flash_attention
from pipeline.modeling.head_loss import IGNORED, cross_entropy_sum, head_loss_sum
from pipeline.modeling.kv_cache import KVCache
from pipeline.modeling.quantization import quantize_int8
from utils.devices import resolve_device
from utils.errors import PipelineError


@dataclass(frozen=True)
class Tolerance:
    """How large a relative difference may be."""

    logits: float
    loss: float
    gradients: float


FLOAT32 = Tolerance(1e-4, 1e-5, 1e-3)  # products and sums in another order
BFLOAT16 = Tolerance(3e-2, 1e-3, 6e-2)  # eight bits of precision, over a few layers
ONE_KERNEL = Tolerance(1e-2, 1e-3, 2e-2)  # in bfloat16
SAME_KERNELS = Tolerance(1e-4, 1e-5, 5e-3)  # flash attention's backward pass adds up in no fixed order
INT8 = 6e-2


@dataclass(frozen=True)
class Passes:
    """What forward and backward gave."""

    logits: Tensor
    loss: Tensor
    gradients: Tensor  # of all weights, flat


def compare_float32(trial: Trial) -> list[Row]:
    return _against_cpu(trial, Execution(), "float32", FLOAT32)


def compare_bfloat16(trial: Trial) -> list[Row]:
    return _against_cpu(trial, Execution(compute_dtype=torch.bfloat16), "bfloat16", BFLOAT16)


def _against_cpu(trial: Trial, execution: Execution, name: str, tolerance: Tolerance) -> list[Row]:
    ids = example_ids(trial)
    expected = passes(example_model(trial.scale.small), ids)
    found = passes(on_device(example_model(trial.scale.small), trial, execution), ids)
    return _rows(name, found, expected, tolerance)


def _rows(name: str, found: Passes, expected: Passes, tolerance: Tolerance) -> list[Row]:
    return [
        at_most(f"{name}, logits", difference(found.logits, expected.logits), tolerance.logits),
        at_most(f"{name}, loss", difference(found.loss, expected.loss), tolerance.loss),
        at_most(f"{name}, gradients", difference(found.gradients, expected.gradients), tolerance.gradients),
    ]


def compare_flash(trial: Trial) -> list[Row]:
    """FlashAttention's own kernel, causal and with grouped heads; and whether training accepts this device."""
    device = resolve_device(trial.device)
    rows = _kernel_rows(trial, "flash attention", SDPBackend.FLASH_ATTENTION)
    if device.type == "cuda":
        check_flash_attention(trial.scale.small, device, torch.bfloat16)
        rows.append(Row("training.attention=flash", "runs", "runs", "pass"))
    return rows


def compare_cudnn(trial: Trial) -> list[Row]:
    if torch.device(trial.device).type != "cuda":
        return [skipped("cuDNN attention", "runs on CUDA only")]
    return _kernel_rows(trial, "cuDNN attention", SDPBackend.CUDNN_ATTENTION)


def _kernel_rows(trial: Trial, name: str, kernel: SDPBackend) -> list[Row]:
    q, k, v = attention_inputs(trial)

    def fast(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel([kernel]):
            return attend(q, k, v, None)

    try:
        return _attention_rows(name, fast, causal(q), (q, k, v))
    except RuntimeError as error:
        if "No available kernel" not in str(error):
            raise
        return [skipped(name, "not available on this device")]  # training needs one of the two kernels


def compare_documents(trial: Trial) -> list[Row]:
    """FlexAttention over a row of several documents. On the CPU it has no backward pass."""
    q, k, v = attention_inputs(trial)
    segments = example_segments(trial).to(q.device)
    same = segments[:, None, :, None] == segments[:, None, None, :]  # (B, 1, T, T)

    def fast(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, segment_block_mask(segments))

    return _attention_rows("FlexAttention", fast, same & causal(q), (q, k, v), backward=q.is_cuda)


def _attention_rows(
    name: str,
    fast: Callable[[Tensor, Tensor, Tensor], Tensor],
    visible: Tensor,
    tensors: tuple[Tensor, Tensor, Tensor],
    *,
    backward: bool = True,
) -> list[Row]:
    """`fast` in bfloat16 against plain attention in float32, on the same device."""
    exact = [tensor.float().requires_grad_() for tensor in tensors]
    expected = plain_attention(exact[0], exact[1], exact[2], visible)
    if not backward:
        with torch.no_grad():
            return [at_most(f"{name}, forward", difference(fast(*tensors), expected), ONE_KERNEL.logits)]
    rounded = [tensor.clone().requires_grad_() for tensor in tensors]
    found = fast(rounded[0], rounded[1], rounded[2])
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).to(found.device)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), exact)
    gradients = torch.autograd.grad((found.float() * weights).sum(), rounded)
    return [
        at_most(f"{name}, forward", difference(found, expected), ONE_KERNEL.logits),
        at_most(f"{name}, backward", difference(flat(gradients), flat(expected_gradients)), ONE_KERNEL.gradients),
    ]


def causal(q: Tensor) -> Tensor:
    """What each position of `q` (B, H, T, D) may see: (T, T)."""
    return torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril()


def plain_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """Softmax of all products, as the paper has it: `q` (B, H, T, D) over `k`, `v` (B, K, T, D)."""
    groups = q.shape[1] // k.shape[1]
    k = k.repeat_interleave(groups, dim=1)
    v = v.repeat_interleave(groups, dim=1)
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5  # (B, H, T, T)
    attended: Tensor = scores.masked_fill(~visible, float("-inf")).softmax(-1) @ v  # (B, H, T, D)
    return attended


def compare_packing(trial: Trial) -> list[Row]:
    """Documents that share rows, as training packs them, against each document by itself on the CPU."""
    ids = example_ids(trial)
    segments = example_segments(trial)
    starts = torch.cat([torch.ones_like(segments[:, :1]), segments.diff(dim=1)], dim=1) != 0  # (B, T)
    labels = ids.masked_fill(starts, IGNORED)
    model = on_device(example_model(trial.scale.small), trial, training_execution(trial))
    packed = passes(model, ids, segment_ids=segments, labels=labels)
    alone = [
        document
        for row, row_starts in zip(ids, starts, strict=True)
        for document in torch.tensor_split(row, row_starts.nonzero().flatten()[1:].tolist())
    ]
    expected = _summed(example_model(trial.scale.small), alone, count=int((labels != IGNORED).sum()))
    tolerance = FLOAT32 if model.dtype == torch.float32 else BFLOAT16
    return _rows("packing", packed, expected, tolerance)


def _summed(model: TransformerLM, documents: list[Tensor], *, count: int) -> Passes:
    """The documents one after the other, as if their loss were one mean over `count` tokens."""
    model.train()
    logits, total = [], torch.zeros(())
    for document in documents:
        outputs = model(document[None], labels=document[None], num_tokens=float(count))
        total = total + outputs["loss"]
        logits.append(outputs["logits"][0].detach())
    torch.autograd.backward(total)
    return Passes(torch.cat(logits), total.detach(), flat([parameter.grad for parameter in model.parameters()]))


def compare_checkpointing(trial: Trial) -> list[Row]:
    """Blocks that run again in the backward pass, under the kernels that training may use."""
    ids = example_ids(trial)
    execution = training_execution(trial)
    plain = passes(on_device(example_model(trial.scale.small), trial, execution), ids)
    config = replace(trial.scale.small, activation_checkpointing=True)
    found = passes(on_device(example_model(config), trial, execution), ids)
    return _rows("recomputed blocks", found, plain, SAME_KERNELS)


def compare_head_loss(trial: Trial) -> list[Row]:
    """The head and the loss in chunks, as training computes them, against all logits at once in float32."""
    device = resolve_device(trial.device)
    config = trial.scale.small
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(trial.scale.head_rows, config.hidden_size, generator=generator)
    weight = torch.randn(config.vocab_size, config.hidden_size, generator=generator) * 0.05
    targets = torch.randint(0, config.vocab_size, (trial.scale.head_rows,), generator=generator)
    targets[::7] = IGNORED
    exact = [hidden.to(device).bfloat16().float().requires_grad_(), weight.to(device).requires_grad_()]
    loss = cross_entropy_sum(exact[0] @ exact[1].T, targets.to(device))
    expected = torch.autograd.grad(loss, exact)
    rounded = [hidden.to(device).bfloat16().requires_grad_(), weight.to(device).requires_grad_()]
    chunked = head_loss_sum(rounded[0], rounded[1], targets.to(device), compiled=device.type == "cuda")
    found = torch.autograd.grad(chunked, rounded)
    return [
        at_most("head in chunks, loss", difference(chunked, loss), ONE_KERNEL.loss),
        at_most("head in chunks, gradients", difference(flat(found), flat(expected)), ONE_KERNEL.gradients),
    ]


@torch.inference_mode()
def compare_cache(trial: Trial) -> list[Row]:
    """Generation with the cache of keys and values against reading everything again."""
    model = on_device(example_model(trial.scale.small), trial, Execution()).eval()
    ids = example_ids(trial).to(model.device)
    whole = model(ids)["logits"]
    cache = KVCache(model.config, batch_size=len(ids), max_length=ids.shape[1], device=model.device, dtype=model.dtype)
    half = ids.shape[1] // 2
    pieces = [model.hidden_states(ids[:, :half], cache=cache)]
    pieces += [model.hidden_states(ids[:, place : place + 1], cache=cache) for place in range(half, ids.shape[1])]
    logits = model.project(torch.cat(pieces, dim=1))
    return [at_most("cached logits", difference(logits, whole), FLOAT32.logits), _generated_row(trial, model)]


def _generated_row(trial: Trial, model: TransformerLM) -> Row:
    """How far each greedy token of a batch with prompts of several lengths is from the likeliest one, at most."""
    prompts = [ids[: 5 + 3 * row].tolist() for row, ids in enumerate(example_ids(trial))]
    settings = GenerationSettings(max_length=trial.scale.new_tokens, temperature=0.0, ignore_eos=True)
    batch = BatchGenerator(model, max_rows=len(prompts), max_length=len(prompts[-1]) + settings.max_length)
    texts = {batch.join(prompt, settings): list(prompt) for prompt in prompts}
    while batch.num_rows:
        for event in batch.step():
            texts[event.row].append(event.token_id)
    gaps = [_largest_gap(model, text, len(prompt)) for text, prompt in zip(texts.values(), prompts, strict=True)]
    return at_most("generated tokens", max(gaps), FLOAT32.gradients)


def _largest_gap(model: TransformerLM, text: list[int], prompt: int) -> float:
    """Between the likeliest token's logit and the chosen one's, over the logits' deviation."""
    logits = model(torch.tensor([text], device=model.device))["logits"][0, prompt - 1 : -1].float()
    chosen = logits.gather(1, torch.tensor(text[prompt:], device=model.device)[:, None])[:, 0]
    return float(((logits.amax(-1) - chosen) / logits.std(-1)).max())


@torch.inference_mode()
def compare_int8(trial: Trial) -> list[Row]:
    """int8 weights on the CPU; a GPU refuses them and says what to do."""
    ids = example_ids(trial)
    model = on_device(example_model(trial.scale.small), trial, Execution()).eval()
    if model.device.type != "cpu":
        try:
            quantize_int8(model)
        except PipelineError as error:
            found = str(error).partition(";")[2].strip()
            return [Row("int8 weights", f"refused: {found}", "refused: add --device cpu", "pass")]
        return [Row("int8 weights", "accepted", "refused: add --device cpu", "fail")]
    expected = model(ids)["logits"].clone()
    quantize_int8(model)
    return [at_most("int8 weights, logits", difference(model(ids)["logits"], expected), INT8)]


# ---- what the comparisons share


def example_model(config: ModelConfig) -> TransformerLM:
    """Always the same weights, on the CPU; larger than at the start of a training, so that every part counts."""
    torch.manual_seed(0)
    model = TransformerLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0 if parameter.dim() > 1 else 1.0)
    return model


def on_device(model: TransformerLM, trial: Trial, execution: Execution) -> TransformerLM:
    model.to(resolve_device(trial.device))
    model.run_as(execution)
    return model


def training_execution(trial: Trial) -> Execution:
    """How training runs on the device, but not compiled."""
    if resolve_device(trial.device).type == "cuda":
        return Execution(compute_dtype=torch.bfloat16, flash_only=True)
    return Execution()


def example_ids(trial: Trial) -> Tensor:
    """Random ids (B, T), always the same."""
    generator = torch.Generator().manual_seed(0)
    scale = trial.scale
    return torch.randint(0, scale.small.vocab_size, (scale.rows, scale.length), generator=generator)


def example_segments(trial: Trial) -> Tensor:
    """Three documents in each row, their lengths not multiples of a block: segment ids (B, T)."""
    length = trial.scale.length
    places = torch.arange(length)
    rows = [(places >= length // 3 + row).long() + (places >= length - 7 - row) for row in range(trial.scale.rows)]
    return torch.stack(rows)


def attention_inputs(trial: Trial) -> tuple[Tensor, Tensor, Tensor]:
    """`q` (B, H, T, D) and `k`, `v` (B, K, T, D) in bfloat16."""
    config = trial.scale.small
    generator = torch.Generator().manual_seed(0)

    def heads(count: int) -> Tensor:
        shape = (trial.scale.rows, count, trial.scale.length, config.head_dim)
        return torch.randn(shape, generator=generator).to(resolve_device(trial.device), torch.bfloat16)

    return heads(config.num_attention_heads), heads(config.num_key_value_heads), heads(config.num_key_value_heads)


def passes(
    model: TransformerLM, ids: Tensor, *, segment_ids: Tensor | None = None, labels: Tensor | None = None
) -> Passes:
    """Forward and backward in training mode."""
    model.train()
    ids = ids.to(model.device)
    outputs = model(
        ids,
        labels=ids if labels is None else labels.to(model.device),
        segment_ids=None if segment_ids is None else segment_ids.to(model.device),
    )
    loss, logits = outputs["loss"], outputs["logits"]
    loss.backward()
    gradients = flat([parameter.grad for parameter in model.parameters()])
    return Passes(logits.detach(), loss.detach(), gradients)


def flat(tensors: "list[Tensor | None] | tuple[Tensor, ...]") -> Tensor:
    return torch.cat([tensor.detach().flatten().float() for tensor in tensors if tensor is not None])


def difference(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over the norm of `expected`."""
    exact = expected.detach().cpu().double().flatten()
    return float((found.detach().cpu().double().flatten() - exact).norm() / exact.norm().clamp(min=1e-30))
