"""The smallest model that uses every part of the architecture, as a section of the configuration."""


def model_section(*, vocab_size: int, context: int) -> dict[str, object]:
    return {
        "vocab_size": vocab_size,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 32,
        "max_position_embeddings": context,
        "dropout": 0.1,
    }
