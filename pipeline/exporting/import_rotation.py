"""Score an imported model on a piece of text, the only way to tell which values its RoPE rotates together.

losses = sample_losses({"pairs": weights, "halves": others}, config, tokenizer)     # {"pairs": 9.1, "halves": 3.2}
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model import TransformerLM
from pipeline.exporting.hf_names import from_hf_names
from pipeline.modeling.config import ModelConfig

if TYPE_CHECKING:
    from pipeline.tokenization.wikipedia_tokenizer import WikipediaTokenizer

TEXT = """The river rises in the hills north of the town and flows south through farmland for about forty miles
before it reaches the sea. In the nineteenth century several mills were built along its banks, and a canal was dug to
carry coal and grain to the harbour. Most of the mills were closed after the railway came, but some of the buildings are
still used as houses, and the canal is popular with walkers. The town has a school, a library and a small museum of
local history."""


@torch.no_grad()
def sample_losses(
    states: Mapping[str, Mapping[str, Tensor]], config: ModelConfig, tokenizer: "WikipediaTokenizer"
) -> dict[str, float]:
    """The mean loss on `TEXT` in nats per token of each of `states` (weights under Hugging Face's names)."""
    ids = torch.tensor([tokenizer.encode(TEXT, add_bos=True)[: config.context_length]])
    losses = {}
    for name, state in states.items():
        with torch.device("meta"):
            model = TransformerLM(config)
        model.load_state_dict({key: value.float() for key, value in from_hf_names(state, config).items()}, assign=True)
        model.model.rotary.to_empty(device="cpu")
        losses[name] = model.eval()(ids, labels=ids)["loss"].item()
    return losses
