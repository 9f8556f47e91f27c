"""The section `generation` of the configuration: defaults for generated text."""

from dataclasses import dataclass

from utils.options import option


@dataclass(frozen=True)
class GenerationConfig:
    """Defaults for generated text."""

    max_length: int = option(200, "new tokens at most", minimum=1)
    temperature: float = option(0.8, "0: always the likeliest token", minimum=0.0)
    top_k: int = option(50, "draw among the k likeliest; 0: all", minimum=0)
    top_p: float = option(0.95, "draw among the likeliest that hold this probability; 1: all", above=0.0, maximum=1.0)
    min_p: float = option(
        0.0, "draw among those with this share of the likeliest's probability", minimum=0.0, maximum=0.99
    )
    repetition_penalty: float = option(1.0, "above 1: what has been said becomes less likely", above=0.0)
    seed: int | None = option(None, "the same seed gives the same text; null: another one each time", minimum=0)
    on_overflow: str = option(
        "slide",
        "beyond the context: slide (drop the oldest half, read the rest again) or refuse the request",
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
        "the decode step on a CPU; on: compiled once for each shape of model and kept; auto: if that was done before",
        choices=("auto", "on", "off"),
    )
