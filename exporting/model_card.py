"""The README.md of an exported folder: what the model is, how it was trained, how it scores, how to use it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from utils.terminal import format_count

if TYPE_CHECKING:
    from loading import LoadedModel


def model_card(loaded: "LoadedModel", *, dtype: str, scores: Mapping[str, Any] | None) -> str:
    """Markdown with the front matter that the Hugging Face hub reads. What a checkpoint does not say is left out."""
    kind = "fine-tuned on conversations" if loaded.is_chat else "pretrained"
    size = format_count(loaded.model.num_parameters())
    sections = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\nlanguage: en\n---",
        f"# {loaded.name.replace('/', ' ')}\n\nA language model of {size} parameters, trained from scratch, {kind}.",
        "## Model\n\n" + _table(_model_facts(loaded, dtype)),
        "## Data and training\n\n" + _table(_training_facts(loaded.content)),
        "## Scores\n\n" + _scores(loaded.content, scores),
        "## Use\n\n" + (_CHAT_USE if loaded.is_chat else _BASE_USE),
        "## Limits\n\nA small model: it writes fluent text that is often wrong. Its answers are no source of facts.",
    ]
    return "\n\n".join(sections) + "\n"


def _model_facts(loaded: "LoadedModel", dtype: str) -> dict[str, Any]:
    config = loaded.model.config
    heads = f"{config.num_attention_heads}, {config.num_key_value_heads} for keys and values"
    return {
        "architecture": "Qwen3 (Llama with QK-norm)" if config.qk_norm else "Llama",
        "parameters": f"{loaded.model.num_parameters():,}",
        "width, layers": f"{config.hidden_size}, {config.num_hidden_layers}",
        "attention heads": heads,
        "feed-forward": config.ffn_size,
        "context": f"{config.context_length} tokens",
        "embeddings": "tied" if config.tie_word_embeddings else "input and output apart",
        "vocabulary": f"{config.vocab_size:,} ({loaded.tokenizer.name})",
        "type of the weights": dtype,
    }


def _training_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    config = facts.get("config") or {}
    section = config.get("sft" if facts.get("chat_template") else "training") or {}
    dataset = (config.get("dataset") or {}).get("source")
    stated = {
        "data": "conversations" if facts.get("chat_template") else dataset,
        **_prefixed("data: ", facts.get("data")),
        "steps": facts.get("step"),
        "tokens seen": facts.get("tokens_seen"),
        "learning rate": section.get("learning_rate"),
        "batch": section.get("batch_size"),
        "optimizer": (config.get("training") or {}).get("optimizer"),
        **_prefixed("", facts.get("versions")),
    }
    return {name: value for name, value in stated.items() if value not in (None, "")}


def _scores(facts: Mapping[str, Any], scores: Mapping[str, Any] | None) -> str:
    stated = {**_prefixed("validation: ", facts.get("best")), **_prefixed("", scores)}
    return _table(stated) if stated else "None were measured before this export."


def _prefixed(prefix: str, values: Any) -> dict[str, Any]:
    """The plain values of a mapping, nested ones with their path as name."""
    flat: dict[str, Any] = {}
    for name, value in (values or {}).items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping):
            flat |= _prefixed(f"{prefix}{name} ", value)
        elif isinstance(value, (str, int, float)):
            flat[f"{prefix}{name}"] = value
    return flat


def _table(facts: Mapping[str, Any]) -> str:
    rows = [f"| {_cell(name)} | {_cell(value)} |" for name, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    return " ".join(text.replace("|", "\\|").split())


_BASE_USE = """\
```python
from transformers import pipeline

pipeline("text-generation", model="THIS_FOLDER")("The capital of France is", max_new_tokens=40)
```

`vllm serve THIS_FOLDER` serves it."""

_CHAT_USE = """\
```python
from transformers import pipeline

messages = [{"role": "user", "content": "What is a language model?"}]
pipeline("text-generation", model="THIS_FOLDER")(messages, max_new_tokens=100)
```

`vllm serve THIS_FOLDER` serves it; `/v1/chat/completions` applies the chat template, which is in the folder."""
