"""The `generation` section of the configuration: defaults for text generation."""

from dataclasses import dataclass

from utils.options import option


@dataclass(frozen=True)
class GenerationConfig:
    """Defaults for text generation."""

    max_length: int = option(200, "maximum number of new tokens", minimum=1)
    temperature: float = option(0.8, "higher is more varied; 0: always the most likely token", minimum=0.0)
    top_k: int = option(50, "sample from the k most likely tokens; 0: all", minimum=0)
    top_p: float = option(
        0.95, "sample from the most likely tokens with this total probability; 1: all", above=0.0, maximum=1.0
    )
    min_p: float = option(
        0.0,
        "minimum probability of a token, relative to the most likely one; 0: all",
        minimum=0.0,
        maximum=0.99,
    )
    repetition_penalty: float = option(1.0, "above 1: tokens that have already occurred become less likely", above=0.0)
    seed: int | None = option(None, "the same seed gives the same text; null: a new seed each time", minimum=0)
    on_overflow: str = option(
        "slide",
        "when the context is full: slide (drop the oldest half, read the rest again) or refuse the request; on the "
        "server, each request says so itself (`truncation`)",
        choices=("slide", "refuse"),
    )
    dtype: str = option(
        "auto",
        "type of the weights; auto: bfloat16 on CUDA, float32 elsewhere",
        choices=("auto", "float32", "bfloat16"),
    )
    quantize: str = option("none", "int8: a quarter of the memory, faster on a CPU", choices=("none", "int8"))
    compile: str = option(
        "auto",
        "compile the decode step on a CPU; on: once per model shape, then cached; auto: only if it is in the cache",
        choices=("auto", "on", "off"),
    )
