"""Write the README.md of an exported folder: the model, its training, its scores, and how to use it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from utils.terminal import format_count

if TYPE_CHECKING:
    from pipeline.generation.loading import LoadedModel


def model_card(loaded: "LoadedModel", *, name: str, dtype: str, scores: Mapping[str, object] | None) -> str:
    """Markdown with the front matter that the Hugging Face hub reads; facts that the checkpoint lacks are left out.

    Args:
        name: the name of the folder.
        scores: a benchmark's results, possibly nested.
    """
    content = loaded.content
    kind = "fine-tuned on conversations" if loaded.is_chat else "pretrained"
    size = format_count(loaded.model.num_parameters())
    sections = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\nlanguage: en\n---",
        f"# {name}\n\nA language model of {size} parameters, trained from scratch, {kind}.",
        "## Model\n\n" + _table(_model_facts(loaded, dtype)),
        "## Pretraining\n\n" + _table(_pretraining_facts(content)),
    ]
    if loaded.is_chat:
        sections.append("## Fine-tuning\n\n" + _table(_tuning_facts(content)))
    sections += [
        "## Made with\n\n" + _table(_plain(content.get("versions"))),
        "## Scores\n\n" + _scores(content, scores),
        "## Use\n\n" + (_CHAT_USE if loaded.is_chat else _BASE_USE).replace("FOLDER", name),
        "## Limits\n\nA small model: it writes fluent text that is often wrong. Do not rely on its answers as facts.",
    ]
    return "\n\n".join(sections) + "\n"


def _model_facts(loaded: "LoadedModel", dtype: str) -> dict[str, object]:
    config = loaded.model.config
    heads = f"{config.num_attention_heads}, {config.num_key_value_heads} for keys and values"
    return {
        "architecture": "Qwen3 (Llama with QK-norm)" if config.qk_norm else "Llama",
        "parameters": f"{loaded.model.num_parameters():,}",
        "width, layers": f"{config.hidden_size}, {config.num_hidden_layers}",
        "attention heads": heads,
        "feed-forward": config.ffn_size,
        "context": f"{config.context_length} tokens",
        "embeddings": "tied" if config.tie_word_embeddings else "untied",
        "vocabulary": f"{config.vocab_size:,} ({loaded.tokenizer.name})",
        "weight dtype": dtype,
    }


def _pretraining_facts(content: Mapping[str, Any]) -> dict[str, object]:
    """For a tuned checkpoint, the facts of its base; its own `training` section says how it was tuned."""
    is_chat = bool(content.get("chat_template"))
    base = content.get("base") or {} if is_chat else content
    config = content.get("config") or {}
    training = {} if is_chat else config.get("training") or {}
    facts = {
        "data": (config.get("dataset") or {}).get("source"),
        "data fingerprint": (base.get("data") or {}).get("fingerprint"),
        "steps": base.get("step"),
        "tokens seen": base.get("tokens_seen"),
        "window": (config.get("dataset") or {}).get("window"),
        **{key.replace("_", " "): training.get(key) for key in ("optimizer", "learning_rate", "batch_size")},
        "batches per step": training.get("gradient_accumulation_steps"),
    }
    return facts | _plain(base.get("best"), "validation ")


def _tuning_facts(content: Mapping[str, Any]) -> dict[str, object]:
    data, sft = content.get("data") or {}, (content.get("config") or {}).get("sft") or {}
    return {
        "conversations": data.get("training_conversations"),
        "held out": data.get("validation_conversations"),
        "data fingerprint": data.get("fingerprint"),
        "steps": content.get("step"),
        "learning rate": sft.get("learning_rate"),
        "batch size": sft.get("batch_size"),
    }


def _scores(content: Mapping[str, object], scores: Mapping[str, object] | None) -> str:
    before = _plain(content.get("before"), "validation, before tuning: ")
    measured = _benchmark_scores(scores) if _is_benchmark(scores) else _plain(scores)
    stated = {**before, **_plain(content.get("best"), "validation: "), **measured}
    return _table(stated) if stated else "No scores were measured before this export."


def _is_benchmark(scores: Mapping[str, Any] | None) -> TypeGuard[Mapping[str, Any]]:
    """Whether these are the results of benchmark.py; other JSON is shown as it is."""
    return scores is not None and {"models", "sets", "settings"} <= scores.keys()


def _benchmark_scores(results: Mapping[str, Any]) -> dict[str, object]:
    """A row for each score, with its 95% interval and a remark if it is not comparable with published scores."""
    rows: dict[str, object] = {}
    for model, result in results["models"].items():
        whose = f"{model}, " if len(results["models"]) > 1 else ""
        for task, figures in result["figures"].items():
            mark = results["sets"][task]["mark"]
            remark = f" ({mark})" if mark else ""
            rows |= {
                f"{whose}{task} {name.replace('_', ' ')}{remark}": _score(figure) for name, figure in figures.items()
            }
    return rows


def _score(figure: Mapping[str, Any]) -> str:
    scale, sign = (100, "%") if figure["unit"] == "share" else (1, "")
    if figure["value"] is None:
        return "too high to measure"
    interval = figure.get("interval")
    ends = f" (95% interval {scale * interval[0]:.4g} to {scale * interval[1]:.4g}{sign})" if interval else ""
    return f"{scale * figure['value']:.4g}{sign}{ends}"


def _plain(values: object, prefix: str = "") -> dict[str, object]:
    """The plain values of a mapping; nested ones are named by their path."""
    flat: dict[str, object] = {}
    if not isinstance(values, Mapping):
        return flat
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _plain(value, f"{prefix}{name} ")
        elif isinstance(value, (str, int, float)):
            flat[f"{prefix}{name}"] = value
    return flat


def _table(facts: Mapping[str, object]) -> str:
    stated = {name: value for name, value in facts.items() if value not in (None, "")}
    rows = [f"| {_cell(name)} | {_cell(value)} |" for name, value in stated.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _cell(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    return " ".join(text.replace("|", "\\|").split())


_BASE_USE = """\
```python
from transformers import pipeline

pipeline("text-generation", model="FOLDER")("The capital of France is", max_new_tokens=40)
```

`vllm serve FOLDER` serves it."""

_CHAT_USE = """\
```python
from transformers import pipeline

messages = [{"role": "user", "content": "What is a language model?"}]
pipeline("text-generation", model="FOLDER")(messages, max_new_tokens=100)
```

`vllm serve FOLDER` serves it; `/v1/chat/completions` applies the chat template, which is in the folder."""
