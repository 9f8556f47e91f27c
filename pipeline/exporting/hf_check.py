"""Load an exported folder with transformers and compare it with the original. A difference is an error."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn

from model import TransformerLM
from pipeline.exporting.comparison import NEW_TOKENS, TEXTS, Comparison, greedy_prompts, largest_difference, random_ids
from pipeline.formats.chat_template import Message, encode_conversation, encode_prompt
from pipeline.generation.generate import GenerationSettings, generate_batch
from pipeline.tokenization.interface import Tokenizer
from utils.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.generation.loading import LoadedModel

SYSTEM = {"role": "system", "content": "Be brief.\nAlways."}
MESSAGES = (
    {"role": "user", "content": "What is this?  "},
    {"role": "assistant", "content": " A test:\n\n- one\n- two"},
    {"role": "user", "content": "Größe?"},
    {"role": "assistant", "content": "42."},
)
TOLERANCE = 1e-4  # of the largest logit: rounding in float32 stays below 1e-5


class _Output(Protocol):
    @property
    def logits(self) -> Tensor: ...  # (B, T, V)


class HfModel(Protocol):
    """What the comparison needs of a model that transformers loaded."""

    def __call__(self, ids: Tensor) -> _Output: ...

    def generate(self, ids: Tensor, *, attention_mask: Tensor, do_sample: bool, max_new_tokens: int) -> Tensor: ...


class _Encoding(Protocol):
    @property
    def input_ids(self) -> list[int]: ...


class HfTokenizer(Protocol):
    """What the comparison needs of a tokenizer that transformers loaded."""

    def __len__(self) -> int: ...

    def __call__(self, text: str) -> _Encoding: ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str: ...

    def apply_chat_template(self, messages: Sequence[Message], **options: bool) -> Mapping[str, list[int]]: ...


def check_hf_folder(directory: Path, loaded: "LoadedModel", *, dtype: torch.dtype) -> Comparison:
    """Compare the names of the weights, the logits, greedy tokens, the tokenizer and the chat template.

    Both sides compute in float32, ours with its weights rounded to `dtype`, so only rounding may differ.

    Raises:
        PipelineError: something differs.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers annotates neither
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    check_tokenizer(cast(HfTokenizer, AutoTokenizer.from_pretrained(directory)), loaded)
    theirs = load_hf_model(directory)
    ours = _rounded(loaded.model, dtype)
    difference = compare_logits(ours, lambda ids: theirs(ids).logits, directory)
    tokens = _compare_greedy_tokens(ours, theirs, loaded.tokenizer, directory)
    return {"logit_difference": difference, "greedy_tokens": tokens}


def load_hf_model(directory: Path) -> HfModel:
    """The folder's model in float32.

    Raises:
        PipelineError: a weight is missing or left over, which transformers only logs.
    """
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    model, report = cast("tuple[nn.Module, Mapping[str, Sequence[str]]]", loaded)  # as output_loading_info asks
    wrong = {kind: sorted(names) for kind, names in report.items() if names and kind != "error_msgs"}
    if wrong:
        raise PipelineError(f"{directory}: transformers did not load every weight: {wrong}")
    return cast(HfModel, model.eval())


def check_tokenizer(theirs: HfTokenizer, loaded: "LoadedModel") -> None:
    """Check that an exported tokenizer produces our ids, and that its chat template agrees with
    `pipeline.formats.chat_template`.

    Raises:
        PipelineError: they differ.
    """
    ours = loaded.tokenizer
    if len(theirs) != ours.vocab_size:
        raise PipelineError(f"the exported tokenizer has {len(theirs)} tokens; expected {ours.vocab_size}")
    for text in TEXTS:
        ids = ours.encode(text, add_bos=True)
        _compare(theirs(text).input_ids, ids, f"the exported tokenizer's ids of {text!r}")
        _compare(theirs.decode(ids, skip_special_tokens=True), ours.decode(ids), f"the decoded ids of {text!r}")
    if not loaded.is_chat:
        return
    for messages in (MESSAGES, (SYSTEM, *MESSAGES)):
        _check_chat_template(theirs, loaded, messages)


def _check_chat_template(theirs: HfTokenizer, loaded: "LoadedModel", messages: Sequence[Message]) -> None:
    ours, template = loaded.tokenizer, loaded.template
    conversation = encode_conversation(ours, messages, template=template)
    rendered = theirs.apply_chat_template(list(messages), return_dict=True, return_assistant_tokens_mask=True)
    _compare(rendered["input_ids"], conversation.ids, "the exported chat template's ids")
    _compare(rendered["assistant_masks"], conversation.mask, "the exported chat template's assistant mask")
    prompt = theirs.apply_chat_template(list(messages[:-1]), add_generation_prompt=True, return_dict=True)
    expected = encode_prompt(ours, messages[:-1], template=template)
    _compare(prompt["input_ids"], expected, "the exported chat template's prompt")


@torch.no_grad()
def compare_logits(ours: TransformerLM, theirs: Callable[[Tensor], Tensor], origin: object) -> float:
    """The largest difference of logits over random ids, as a share of the largest logit.

    Raises:
        PipelineError: it is more than rounding.
    """
    ids = random_ids(ours.config.vocab_size, (2, min(ours.config.context_length, 256)))
    difference = largest_difference(theirs(ids).float(), ours(ids)["logits"].float())
    if not difference <= TOLERANCE:  # so that NaN fails
        raise PipelineError(
            f"{origin}: the logits differ from the checkpoint's by {difference:.2e} relative to the largest; "
            f"expected at most {TOLERANCE:.0e}; nothing was exported"
        )
    return difference


def _compare_greedy_tokens(ours: TransformerLM, theirs: HfModel, tokenizer: Tokenizer, directory: Path) -> int:
    prompts = greedy_prompts(tokenizer)
    settings = GenerationSettings(max_length=NEW_TOKENS, temperature=0.0)
    for prompt, expected in zip(prompts, generate_batch(ours, prompts, settings, tokenizer=tokenizer), strict=True):
        ids = torch.tensor([prompt])
        mask = torch.ones_like(ids)
        result = theirs.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW_TOKENS)
        _compare(result[0, len(prompt) :].tolist(), expected, f"{directory}: the greedy tokens")
    return NEW_TOKENS * len(prompts)


def _rounded(model: TransformerLM, dtype: torch.dtype) -> TransformerLM:
    """`model` in float32 with its weights as the file holds them."""
    return model if dtype == torch.float32 else copy.deepcopy(model).to(dtype).float()


def _compare(found: Sequence[int] | str, expected: Sequence[int] | str, what: str) -> None:
    if found != expected:
        place = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), len(expected))
        part = slice(max(0, place - 2), place + 3)
        raise PipelineError(
            f"{what} differ at position {place}: got {found[part]!r}, expected {expected[part]!r}; nothing was exported"
        )
