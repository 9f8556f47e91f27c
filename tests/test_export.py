"""Exports: transformers loads the same model, and unsupported models are refused."""

import json
import os
import shutil

import pytest
import torch

import export
from pipeline.exporting.comparison import largest_difference, random_ids
from pipeline.exporting.hf_config import generation_config, hf_config, model_config
from pipeline.formats.chat_template import encode_conversation, encode_prompt
from pipeline.generation.config import GenerationConfig
from pipeline.modeling.config import ModelConfig
from tests.expected_text import assert_expected
from tests.small_models import small_checkpoint, trained_tokenizer
from utils.cli import exit_code_of
from utils.errors import PipelineError

SHAPES = {"llama": {}, "qwen3": {"qk_norm": True}, "untied": {"tie_word_embeddings": False}} | {
    scaling: {"rope_scaling": scaling, "rope_scaling_factor": 2.0} for scaling in ("linear", "yarn", "ntk")
}
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "the fox? "},
    {"role": "assistant", "content": " jumps\nover"},
    {"role": "user", "content": "lazy"},
    {"role": "assistant", "content": "dog 🙂"},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return trained_tokenizer(tmp_path_factory.mktemp("export") / "tokenizer")


@pytest.fixture(scope="module")
def exported(tokenizer, tmp_path_factory):
    """The folder and checkpoint of each shape; the Llama is fine-tuned."""
    directory = tmp_path_factory.mktemp("exported")
    results = {}
    for name, shape in SHAPES.items():
        checkpoint = small_checkpoint(directory / f"{name}.pt", tokenizer, chat=name == "llama", **shape)
        assert export.main(["--checkpoint", str(checkpoint), "--output", str(directory / name)]) == 0
        results[name] = (directory / name, checkpoint)
    return results


@pytest.mark.parametrize("name", SHAPES)
def test_transformers_computes_the_same_logits(exported, name):
    from transformers import AutoModelForCausalLM

    from model import load_model

    folder, checkpoint = exported[name]
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.randint(
        theirs.config.vocab_size, (2, theirs.config.max_position_embeddings), generator=torch.Generator().manual_seed(3)
    )
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, load_model(checkpoint)(ids)["logits"], rtol=1e-4, atol=1e-3)
    assert type(theirs).__name__ == ("Qwen3ForCausalLM" if name == "qwen3" else "LlamaForCausalLM")
    assert not any("bias" in parameter for parameter, _ in theirs.named_parameters())
    assert not getattr(theirs.config, "use_sliding_window", False)


def test_exported_tokenizer_and_template_match_ours(exported, tokenizer):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(exported["llama"][0])
    for text in ("the lazy dog", "  two\n\nlines ", "Zürich 東京 🙂"):
        assert theirs(text).input_ids == tokenizer.encode(text, add_bos=True)
    rendered = theirs.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    ours = encode_conversation(tokenizer, CHAT)
    assert (rendered["input_ids"], rendered["assistant_masks"]) == (ours.ids, ours.mask)
    prompt = theirs.apply_chat_template(CHAT[:-1], add_generation_prompt=True, return_dict=True)
    assert prompt["input_ids"] == encode_prompt(tokenizer, CHAT[:-1])


@pytest.mark.parametrize("answer", ["the", "the lazy ", " two\n", "Zür"])
def test_a_continued_message_has_transformers_ids(exported, tokenizer, answer):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(exported["llama"][0])
    begun = [*CHAT[:-1], {"role": "assistant", "content": answer}]
    prompt = theirs.apply_chat_template(begun, continue_final_message=True, return_dict=True)
    assert prompt["input_ids"] == encode_prompt(tokenizer, begun, continue_final_message=True)


def test_only_a_tuned_checkpoint_gets_a_chat_template(exported):
    assert (exported["llama"][0] / "chat_template.jinja").is_file()
    assert not (exported["qwen3"][0] / "chat_template.jinja").exists()


def test_model_card_covers_data_training_and_scores(exported):
    tuned, base = ((exported[name][0] / "README.md").read_text(encoding="utf-8") for name in ("llama", "qwen3"))
    for told in ("fine-tuned on conversations", "## Fine-tuning", "| validation: loss | 2.5 |", "vllm serve llama"):
        assert told in tuned
    for told in ("pretrained", "| steps | 12 |", "| tokens seen | 3,456 |", "Qwen3", "vllm serve qwen3"):
        assert told in base
    assert "## Fine-tuning" not in base


def test_model_card_contains_benchmark_scores(exported, tmp_path):
    scores = tmp_path / "benchmark.json"
    scores.write_text(json.dumps({"wikitext": {"perplexity": 31.25}}))
    arguments = ["--checkpoint", str(exported["llama"][1]), "--output", str(tmp_path / "out"), "--scores", str(scores)]
    assert export.main(arguments) == 0
    assert "| wikitext perplexity | 31.25 |" in (tmp_path / "out" / "README.md").read_text()


def test_model_card_lists_the_scores_of_a_benchmark_only():
    from pipeline.exporting.model_card import _scores

    share = {"value": 0.25, "stderr": 0.1, "interval": [0.1, 0.5], "unit": "share"}
    bits = {"value": 1.09375, "stderr": None, "interval": None, "unit": "bits"}
    results = {
        "settings": {"rules": "long"},
        "sets": {"lambada": {"mark": "sample, not comparable"}, "wikitext": {"mark": ""}},
        "models": {"latest": {"figures": {"lambada": {"acc": share}, "wikitext": {"bits_per_byte": bits}}}},
    }
    rows = _scores({}, results).splitlines()[2:]
    assert rows == [
        "| lambada acc (sample, not comparable) | 25% (95% interval 10 to 50%) |",
        "| wikitext bits per byte | 1.094 |",
    ]


@pytest.mark.parametrize(
    ("shape", "name"),
    [({"norm": "layer"}, "LayerNorm"), ({"activation": "geglu"}, "GeGLU"), ({"activation": "reglu"}, "ReGLU")],
)
def test_unsupported_models_are_refused_without_leftovers(tokenizer, tmp_path, shape, name):
    checkpoint = small_checkpoint(tmp_path / "a.pt", tokenizer, **shape)
    with pytest.raises(PipelineError, match=name):
        export.main(["--checkpoint", str(checkpoint), "--output", str(tmp_path / "out")])
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pt"]


def test_a_difference_is_an_error_and_nothing_is_left(tokenizer, tmp_path, monkeypatch):
    from pipeline.exporting import hf_folder

    def shuffled(state, config):
        from pipeline.exporting.hf_names import to_hf_names

        names = to_hf_names(state, config)
        q = "model.layers.0.self_attn.q_proj.weight"
        return names | {q: names[q].flip(0)}

    monkeypatch.setattr(hf_folder, "to_hf_names", shuffled)
    checkpoint = small_checkpoint(tmp_path / "a.pt", tokenizer)
    with pytest.raises(PipelineError, match="logits differ"):
        export.main(["--checkpoint", str(checkpoint), "--output", str(tmp_path / "out")])
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pt"]


def test_weights_of_half_size_are_compared_as_they_are_stored(tokenizer, tmp_path):
    checkpoint = small_checkpoint(tmp_path / "a.pt", tokenizer)
    arguments = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "out"), "--dtype", "bfloat16"]
    assert export.main(arguments) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_overwrite_replaces_only_exports(exported, tmp_path):
    folder, checkpoint = exported["llama"]
    arguments = ["--checkpoint", str(checkpoint), "--output"]
    with pytest.raises(PipelineError, match="--overwrite"):
        export.main([*arguments, str(folder)])
    with pytest.raises(PipelineError, match="is not an export"):
        export.main([*arguments, str(tmp_path), "--overwrite"])
    assert export.main([*arguments, str(folder), "--overwrite"]) == 0


def test_a_folder_with_files_of_others_is_never_replaced(exported, tmp_path):
    from safetensors.torch import save_file

    folder, checkpoint = exported["llama"]
    arguments = ["--checkpoint", str(checkpoint), "--overwrite", "--output", str(tmp_path / "mine")]
    shutil.copytree(folder, tmp_path / "mine")
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(PipelineError, match=r"files that the exporter did not write \(notes\.txt\)"):
        export.main(arguments)
    (tmp_path / "mine" / "notes.txt").unlink()
    save_file({"a": torch.ones(1)}, tmp_path / "mine" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PipelineError, match="is not an export"):  # a model that was downloaded has the same names
        export.main(arguments)
    assert len(list((tmp_path / "mine").iterdir())) == len(list(folder.iterdir()))


def test_exported_files_have_the_mode_of_the_umask(tokenizer, tmp_path):
    checkpoint = small_checkpoint(tmp_path / "a.pt", tokenizer)
    umask = os.umask(0o027)
    try:
        export.main(["--checkpoint", str(checkpoint), "--output", str(tmp_path / "out")])
        export.main(["--checkpoint", str(checkpoint), "--gguf", str(tmp_path / "out.gguf")])
    finally:
        os.umask(umask)
    written = [tmp_path / "out.gguf", *(tmp_path / "out").iterdir()]
    assert {oct(path.stat().st_mode & 0o777) for path in written} == {"0o640"}


def test_the_same_checkpoint_gives_the_same_bytes(exported, tmp_path):
    folder, checkpoint = exported["llama"]
    for number in range(3):  # two keys in random order are alike every second time
        again = tmp_path / str(number)
        assert export.main(["--checkpoint", str(checkpoint), "--output", str(again)]) == 0
        assert (again / "SHA256SUMS").read_text() == (folder / "SHA256SUMS").read_text()


@pytest.mark.parametrize("name", sorted(SHAPES.keys() - {"ntk"}))  # which comes back as what it is: a larger base
def test_an_imported_folder_is_the_checkpoint_again(exported, tmp_path, name):
    from pipeline.formats.checkpoint import read_checkpoint

    folder, checkpoint = exported[name]
    assert export.main(["--import-hf", str(folder), "--output", str(tmp_path / "imported")]) == 0
    before, after = read_checkpoint(checkpoint), read_checkpoint(tmp_path / "imported" / "checkpoint_latest.pt")
    assert before["model"].keys() == after["model"].keys()
    for key, tensor in before["model"].items():
        assert torch.equal(tensor, after["model"][key]), key
    assert before["tokenizer"]["fingerprint"] == after["tokenizer"]["fingerprint"]
    assert before.get("chat_template") == after.get("chat_template")
    assert before["config"]["model"] == after["config"]["model"]


def test_generation_settings_say_whether_to_sample():
    ids = {"bos_id": 1, "eos_id": 2, "pad_id": 0}
    sampled = generation_config(GenerationConfig(temperature=0.5, top_k=7, top_p=0.9), **ids)
    assert sampled["do_sample"] is True
    assert (sampled["temperature"], sampled["top_k"], sampled["top_p"]) == (0.5, 7, 0.9)
    greedy = generation_config(GenerationConfig(temperature=0), **ids)
    assert greedy["do_sample"] is False
    assert not {"temperature", "top_k", "top_p"} & greedy.keys()


def test_missing_keys_default_to_llamas_values():
    content = {"model_type": "llama", "vocab_size": 99, "hidden_size": 64, "num_hidden_layers": 1}
    content |= {
        "num_attention_heads": 4,
        "intermediate_size": 80,
        "max_position_embeddings": 32,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
    }
    config = model_config(content, origin="folder")
    assert (config["rope_theta"], config["num_key_value_heads"]) == (10_000.0, 4)
    assert config["tie_word_embeddings"] is False
    assert model_config({**content, "rope_theta": 5e5}, origin="folder")["rope_theta"] == 5e5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; expected llama or qwen3"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "rope_type='llama3' is not supported"),
        ({"attention_bias": True}, "attention_bias=True is not supported"),
        ({"head_dim": 32}, "head_dim is 32; expected"),
    ],
)
def test_a_folder_that_is_not_ours_is_refused_by_name(exported, tmp_path, capsys, change, said):
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in exported["llama"][0].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "SHA256SUMS").unlink()
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    code = exit_code_of(lambda: export.main(["--import-hf", str(folder), "--output", str(tmp_path / "out")]))
    assert code == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["--checkpoint", "x"], ["--import-hf", "x"], ["--checkpoint", "x", "--import-hf", "y"]]
)
def test_half_a_command_is_a_usage_error(arguments, capsys):
    assert exit_code_of(lambda: export.main(arguments)) == 2
    assert "error: " in capsys.readouterr().err


def test_the_configuration_of_a_folder_is_as_approved():
    usual = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "norm_eps": 1e-6}
    usual |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 96, "rope_theta": 5e5}
    shapes = {
        "llama": {},
        "qwen3": {"qk_norm": True, "tie_word_embeddings": False},
        "ntk": {"rope_scaling": "ntk", "rope_scaling_factor": 4.0},
        "yarn": {"rope_scaling": "yarn", "rope_scaling_factor": 2.0},
    }
    shown = {
        name: hf_config(ModelConfig(**usual | shape), bos_id=1, eos_id=2, pad_id=0, dtype="float16")
        for name, shape in shapes.items()
    }
    assert_expected("hf_configs.json", json.dumps(shown, indent=1) + "\n")
    for name, content in shown.items():
        config = ModelConfig(**usual | shapes[name])
        again = ModelConfig(**model_config(content, origin=name))
        assert again.head_dim == config.head_dim
        assert again.context_length == config.context_length


@pytest.mark.parametrize(("first", "expected"), [(0, [0, 1, 2, 3]), (2, [2, 3])])
def test_random_ids_cover_the_vocabulary(first, expected):
    assert random_ids(4, (1, 200), first=first).unique().tolist() == expected


def test_a_difference_is_relative_to_the_largest_logit():
    assert largest_difference(torch.tensor([1.0, -8.0]), torch.tensor([2.0, -10.0])) == pytest.approx(0.2)
    assert largest_difference(torch.tensor([0.5]), torch.tensor([0.25])) == pytest.approx(0.25)
