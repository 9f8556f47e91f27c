"""What was exported, loaded by transformers and compared with the original. A difference is an error."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.formats.chat_template import encode_conversation, encode_prompt
from pipeline.generation.generate import GenerationSettings, generate_batch
from utils.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.generation.loading import LoadedModel

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "  two spaces before,\ttabs\n\n\nnewlines and   runs  \n",
    "Zürich, naïve, Ελλάδα, 東京, 한국어, עברית, 🙂👩‍👩‍👧 and e\u0301",
    "def f(x):\n    return {'a': x ** 2, \"b\": [1, 2.5e-3]}  # comment",
    "",
)
MESSAGES = (
    {"role": "user", "content": "What is this?  "},
    {"role": "assistant", "content": " A test:\n\n- one\n- two"},
    {"role": "user", "content": "Größe?"},
    {"role": "assistant", "content": "42."},
)
TOLERANCE = 1e-4  # of the largest logit: rounding in float32 stays below 1e-5
_NEW_TOKENS = 24


def check_hf_folder(directory: Path, loaded: "LoadedModel", *, dtype: torch.dtype) -> dict[str, Any]:
    """Compares weights' names, logits, greedy tokens, the tokenizer and the chat template; returns what was measured.

    Both sides compute in float32, ours with its weights rounded to `dtype`, so that rounding is all that may differ.

    Raises:
        PipelineError: something differs.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers annotates neither
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    check_tokenizer(AutoTokenizer.from_pretrained(directory), loaded)
    theirs = load_hf_model(directory)
    ours = _rounded(loaded.model, dtype)
    difference = compare_logits(ours, lambda ids: theirs(ids).logits, directory)
    tokens = _compare_greedy_tokens(ours, theirs, loaded.tokenizer, directory)
    return {"logit_difference": difference, "greedy_tokens": tokens}


def load_hf_model(directory: Path) -> Any:
    """The folder's model in float32; a weight missing or left over is an error, which transformers only logs."""
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    model, report = loaded  # a pair, because of output_loading_info
    wrong = {kind: sorted(names) for kind, names in report.items() if names and kind != "error_msgs"}
    if wrong:
        raise PipelineError(f"{directory}: transformers does not load every weight: {wrong}")
    return model.eval()


def check_tokenizer(theirs: Any, loaded: "LoadedModel") -> None:
    """The exported tokenizer gives our ids, with BOS; its template those of `pipeline.formats.chat_template`."""
    ours = loaded.tokenizer
    if len(theirs) != ours.vocab_size:
        raise PipelineError(f"the exported tokenizer has {len(theirs)} tokens; expected {ours.vocab_size}")
    for text in TEXTS:
        ids = ours.encode(text, add_bos=True)
        _compare(theirs(text).input_ids, ids, f"the exported tokenizer's ids of {text!r}")
        _compare(theirs.decode(ids, skip_special_tokens=True), ours.decode(ids), f"the decoded ids of {text!r}")
    if not loaded.is_chat:
        return
    conversation = encode_conversation(ours, MESSAGES)
    rendered = theirs.apply_chat_template(list(MESSAGES), return_dict=True, return_assistant_tokens_mask=True)
    _compare(rendered["input_ids"], conversation.ids, "the exported chat template's ids")
    _compare(rendered["assistant_masks"], conversation.mask, "the exported chat template's assistant mask")
    prompt = theirs.apply_chat_template(list(MESSAGES[:3]), add_generation_prompt=True, return_dict=True)
    _compare(prompt["input_ids"], encode_prompt(ours, MESSAGES[:3]), "the exported chat template's prompt")


@torch.no_grad()
def compare_logits(ours: Any, theirs: Any, origin: object) -> float:
    """The largest difference of logits over random ids, as a share of the largest logit.

    Raises:
        PipelineError: it is more than rounding.
    """
    length = min(ours.config.context_length, 256)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(ours.config.vocab_size, (2, length), generator=generator)  # (B, T)
    wanted, found = ours(ids)["logits"].float(), theirs(ids).float()
    difference = float(((wanted - found).abs().max() / wanted.abs().max().clamp(min=1)).item())
    if not difference <= TOLERANCE:  # a NaN is no pass
        raise PipelineError(
            f"{origin}: its logits differ from the checkpoint's by {difference:.2e} of the largest; expected at most "
            f"{TOLERANCE:.0e}; nothing was exported"
        )
    return difference


def greedy_prompts(tokenizer: Any) -> list[list[int]]:
    return [tokenizer.encode(text, add_bos=True) for text in TEXTS[:2]]


def _compare_greedy_tokens(ours: Any, theirs: Any, tokenizer: Any, directory: Path) -> int:
    prompts = greedy_prompts(tokenizer)
    new = _NEW_TOKENS
    settings = GenerationSettings(max_length=new, temperature=0.0)
    for prompt, wanted in zip(prompts, generate_batch(ours, prompts, settings, tokenizer=tokenizer), strict=True):
        ids = torch.tensor([prompt])
        result = theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new)
        _compare(result[0, len(prompt) :].tolist(), wanted, f"{directory}: the greedy tokens")
    return new * len(prompts)


def _rounded(model: Any, dtype: torch.dtype) -> Any:
    """`model` in float32 with its weights as the file holds them."""
    return model if dtype == torch.float32 else copy.deepcopy(model).to(dtype).float()


def _compare(found: Sequence[int] | str, expected: Sequence[int] | str, what: str) -> None:
    if found != expected:
        place = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), len(expected))
        part = slice(max(0, place - 2), place + 3)
        raise PipelineError(
            f"{what} differ at place {place}: {found[part]!r} for {expected[part]!r}; nothing was exported"
        )
