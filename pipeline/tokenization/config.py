"""The section `tokenizer` of the configuration: which tokenizer every stage uses."""

from dataclasses import dataclass

from utils.options import option


@dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer every stage uses."""

    name: str = option(
        "codellama/CodeLlama-7b-hf", "name on the Hugging Face hub, fetched once into `paths.tokenizer_dir`"
    )
