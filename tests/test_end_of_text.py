"""Every stage uses the tokenizer's end-of-text id."""

import json

import pytest
import torch

import export
import lima_tokenizer
from model import load_model
from pipeline.configuration import load_config
from pipeline.console.streaming_output import Statistics, Writer
from pipeline.generation.generate import GenerationSettings, stream_text
from pipeline.generation.loading import load_for_inference
from pipeline.preparation.input_shards import Batch
from pipeline.preparation.worker import ProcessTokenizer, WorkerJob, encode
from pipeline.serving.engine import ServedModel
from pipeline.training.samples import SampleWriter
from pipeline.tuning.dataset import SftDataset
from pipeline.tuning.sample_answers import SampleAnswers
from tests.small_models import small_checkpoint, trained_tokenizer
from tokenizer import WikipediaTokenizer
from utils.checksums import write_sums

END = 7
GREEDY = GenerationSettings(temperature=0, max_length=4)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> WikipediaTokenizer:
    """A tokenizer whose ``</s>`` is 7; id 2 is a byte."""
    folder = trained_tokenizer(tmp_path_factory.mktemp("end") / "tokenizer").directory
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    other = next(piece for piece, token in vocabulary.items() if token == END)
    vocabulary["</s>"], vocabulary[other] = END, 2
    for token in content["added_tokens"]:
        token["id"] = vocabulary[token["content"]]
    path.write_text(json.dumps(content), encoding="utf-8")
    write_sums(folder, [path.name])
    return WikipediaTokenizer(folder)


@pytest.fixture(scope="module")
def checkpoint(tokenizer, tmp_path_factory):
    return small_checkpoint(tmp_path_factory.mktemp("end") / "checkpoint_latest.pt", tokenizer, chat=True)


def always(model, token: int):
    """`model`, patched so that its most likely token is always `token`."""
    one_hot = torch.nn.functional.one_hot(torch.tensor(token), model.config.vocab_size).float()
    model.project = lambda hidden: one_hot.expand(*hidden.shape[:-1], -1)
    return model


def test_tokenizer_defines_the_end_of_text(tokenizer):
    assert tokenizer.eos_id == END
    assert tokenizer.encode("fox", add_eos=True)[-1] == END


@pytest.mark.parametrize(("token", "new"), [(END, 1), (2, 4)])
def test_generate_ends_at_the_checkpoints_end_of_text(checkpoint, token, new):
    model = always(load_model(checkpoint), token)
    assert model.generate([1, 20], max_length=4, temperature=0)[2:].tolist() == [token] * new


@pytest.mark.parametrize(("token", "new"), [(END, 1), (2, 4)])
def test_console_and_server_end_at_the_tokenizers_end(checkpoint, token, new):
    loaded = load_for_inference(str(checkpoint), load_config(), device="cpu")
    always(loaded.model, token)
    statistics = Statistics()
    list(Writer(loaded, "off").stream([1, 20], GREEDY, statistics))
    assert statistics.new_tokens == new
    served = ServedModel("m", loaded.model, loaded.tokenizer, is_chat=False, max_rows=1)
    batch = served._new_batch()
    batch.join([1, 20], GREEDY)
    assert len([event for _ in range(4) if batch.num_rows for event in batch.step()]) == new


def test_samples_during_training_end_there(checkpoint, tokenizer):
    model = always(load_model(checkpoint), END)
    model.eos_id = None  # a model in training is not from a checkpoint
    assert "".join(stream_text(model, tokenizer, "fox", GREEDY)) == ""
    assert SampleWriter(tokenizer, ["fox"], GREEDY)._continue(model, "fox") == "fox"
    assert SampleAnswers(tokenizer, ["fox"], max_length=4).answers(model) == [("fox", "(no text)")]


def test_documents_and_conversations_end_with_it(tokenizer, tmp_path):
    batch = Batch(["the quick fox"], 13, {})
    streams, *_ = encode(batch, tokenizer, WorkerJob(tmp_path, ProcessTokenizer(lambda: tokenizer), 1), source="x")
    assert streams[-1].tolist() == [END]
    source = tmp_path / "chats.jsonl"
    source.write_text('{"conversations": ["the fox?", "a dog"]}\n', encoding="utf-8")
    paths = {"post_training_dir": tmp_path / "data", "tokenizer_dir": tokenizer.directory}
    settings = [part for name, path in paths.items() for part in ("--set", f"paths.{name}={path}")]
    assert lima_tokenizer.main(["--input", str(source), "--max-length", "90", *settings]) == 0
    data = SftDataset.open(tmp_path / "data")
    assert set(data.ids[0, data.lengths[0] - 1 :].tolist()) == {END}


def test_exports_name_it(checkpoint, tokenizer, tmp_path):
    import gguf

    places = ["--set", f"paths.tokenizer_dir={tokenizer.directory}"]
    assert export.main(["--checkpoint", str(checkpoint), "--output", str(tmp_path / "hf"), *places]) == 0
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "hf" / name).read_text())["eos_token_id"] == END
    assert export.main(["--checkpoint", str(checkpoint), "--gguf", str(tmp_path / "m.gguf"), *places]) == 0
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert fields["tokenizer.ggml.eos_token_id"].contents() == END
