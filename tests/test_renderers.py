"""Preparation, training, terminal, server and the exported template render conversations identically."""

import io
import json
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

import Inference
from pipeline.configuration import load_config
from pipeline.console.single_model import run_single
from pipeline.console.streaming_output import Writer
from pipeline.console.system_message import set_system_message
from pipeline.exporting.hf_folder import write_hf_folder
from pipeline.formats.chat_template import TEMPLATE_NAME, WITHOUT_SYSTEM, encode_conversation, encode_prompt
from pipeline.generation.batch_generator import BatchGenerator
from pipeline.generation.config import GenerationConfig
from pipeline.generation.loading import load_for_inference
from pipeline.generation.settings import GenerationSettings
from pipeline.serving.api import create_app
from pipeline.serving.config import ServerConfig
from pipeline.serving.engine import Engine, ServedModel
from pipeline.tuning.conversations import ConversationOptions
from pipeline.tuning.dataset import SftDataset
from pipeline.tuning.loader import ConversationLoader
from pipeline.tuning.mixture import Source
from pipeline.tuning.write_dataset import prepare_conversations
from tests.small_models import small_checkpoint, trained_tokenizer
from utils.errors import PipelineError

QUESTIONS = ["the quick fox?", "Zürich 東京, </s and\n\ntwo lines "]
ANSWER = "jumps over 🙂"
SYSTEM = {"role": "system", "content": "Be brief,\nquick fox."}
MESSAGES = [
    SYSTEM,
    {"role": "user", "content": QUESTIONS[0]},
    {"role": "assistant", "content": ANSWER},
    {"role": "user", "content": QUESTIONS[1]},
]
COMPLETE = [*MESSAGES, {"role": "assistant", "content": "lazy dog"}]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    return load(tmp_path_factory.mktemp("renderers"), template=TEMPLATE_NAME)


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """A model that was tuned before the template had a system turn."""
    return load(tmp_path_factory.mktemp("older"), template=WITHOUT_SYSTEM)


def load(folder, *, template):
    tokenizer = trained_tokenizer(folder / "tokenizer")
    checkpoint = small_checkpoint(folder / "a.pt", tokenizer, chat=template, max_position_embeddings=256)
    config = load_config(settings=[f"paths.tokenizer_dir={folder / 'tokenizer'}", f"paths.post_training_dir={folder}"])
    return folder, config, load_for_inference(str(checkpoint), config, device="cpu", dtype="float32")


@pytest.fixture
def prompts_read(monkeypatch):
    """Record the prompt ids of every generation."""
    read = []
    join = BatchGenerator.join

    def recording(self, prompt_ids, settings):
        read.append(list(prompt_ids))
        return join(self, prompt_ids, settings)

    monkeypatch.setattr(BatchGenerator, "join", recording)
    return read


def test_preparation_and_training(workshop):
    folder, config, loaded = workshop
    source = folder / "chats.jsonl"
    source.write_text(json.dumps({"messages": COMPLETE}) + "\n")
    prepare_conversations(config, ConversationOptions(config.sft.max_length), sources=[Source(source)])
    wanted = encode_conversation(loaded.tokenizer, COMPLETE)
    data = SftDataset.open(folder)
    assert data.ids[0, : data.lengths[0]].tolist() == wanted.ids
    batch = next(iter(ConversationLoader(data, np.arange(1), batch_size=1, device=torch.device("cpu"))))
    assert batch["input_ids"][0].tolist() == wanted.ids
    assert (batch["labels"][0] != -100).int().tolist() == wanted.mask


def test_terminal(workshop, prompts_read, monkeypatch):
    folder, _, loaded = workshop
    options = ["--tokenizer", str(folder / "tokenizer"), "--max-length", "1", "--device", "cpu"]
    arguments = ["--checkpoint", str(folder / "a.pt"), "--prompt", QUESTIONS[1], *options]
    system = ["--system", SYSTEM["content"]]
    question = {"role": "user", "content": QUESTIONS[1]}
    assert Inference.main(arguments) == Inference.main([*arguments, *system]) == 0
    assert prompts_read == [encode_prompt(loaded.tokenizer, messages) for messages in ([question], [SYSTEM, question])]
    # The chat with history: the second prompt contains the first answer.
    prompts_read.clear()
    questions = iter(["the quick fox?", "/system Be brief.", "lazy?", "q"])
    monkeypatch.setattr("builtins.input", lambda *args: next(questions))
    with redirect_stdout(io.StringIO()) as output:
        run_single(Writer(loaded, "off"), GenerationSettings(max_length=5, temperature=0.0), asks_settings=False)
    first, second = prompts_read
    assert first == encode_prompt(loaded.tokenizer, [{"role": "user", "content": "the quick fox?"}])
    answer = output.getvalue().split("Model: ")[1].split("\n5 tokens")[0].strip()
    system = {"role": "system", "content": "Be brief."}
    history = [system, {"role": "user", "content": "the quick fox?"}, {"role": "assistant", "content": answer or "…"}]
    assert second == encode_prompt(loaded.tokenizer, [*history, {"role": "user", "content": "lazy?"}])


def test_server(workshop, prompts_read):
    _, _, loaded = workshop
    ask_server(loaded)
    assert prompts_read == [encode_prompt(loaded.tokenizer, MESSAGES)]


def ask_server(loaded):
    served = ServedModel("chat", loaded.model, loaded.tokenizer, is_chat=True, template=loaded.template, max_rows=1)
    app = create_app(Engine([served], max_waiting=4, timeout=60), GenerationConfig(), ServerConfig())
    with TestClient(app, base_url="http://localhost") as client:
        response = client.post("/v1/chat/completions", json={"model": "chat", "messages": MESSAGES, "max_tokens": 1})
    assert response.status_code == 200


def test_exported_template(workshop):
    from transformers import AutoTokenizer

    folder, _, loaded = workshop
    write_hf_folder(loaded, folder / "hf", dtype=torch.float32)
    theirs = AutoTokenizer.from_pretrained(folder / "hf")
    prompt = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=True)
    assert prompt["input_ids"] == encode_prompt(loaded.tokenizer, MESSAGES)
    whole = theirs.apply_chat_template(COMPLETE, return_dict=True)
    assert whole["input_ids"] == encode_conversation(loaded.tokenizer, COMPLETE).ids


def test_an_older_model_reads_its_system_message_as_before(older, prompts_read, capsys):
    from transformers import AutoTokenizer

    folder, _, loaded = older
    folded = [{"role": "user", "content": f"{SYSTEM['content']}\n\n{QUESTIONS[0]}"}, *MESSAGES[2:]]
    expected = encode_prompt(loaded.tokenizer, folded)
    ask_server(loaded)
    writer = Writer(loaded, "off")
    set_system_message([writer], SYSTEM["content"])
    assert "tuned without system turns" in capsys.readouterr().err
    assert prompts_read == [writer.chat_ids(MESSAGES)] == [expected]
    write_hf_folder(loaded, folder / "hf", dtype=torch.float32)
    theirs = AutoTokenizer.from_pretrained(folder / "hf")
    prompt = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=True)
    assert prompt["input_ids"] == expected


def test_an_unknown_template_is_refused(tmp_path):
    with pytest.raises(PipelineError, match=r"uses the chat template 'chatml'; expected user-assistant-v2 or"):
        load(tmp_path, template="chatml")


def test_a_base_model_has_no_system_message(tmp_path):
    _, _, loaded = load(tmp_path, template="")
    with pytest.raises(PipelineError, match="is a base model, which has no system message"):
        set_system_message([Writer(loaded)], "Be brief.")
