"""Compare a fine-tuning step on real conversations with TRL's SFTTrainer on the exported model."""

import json
import shutil
from contextlib import ExitStack

import numpy as np
import pytest
import torch

import lima_tokenizer
import post_training
from pipeline.configuration import load_config
from pipeline.exporting.hf_folder import write_hf_folder
from pipeline.generation.loading import load_for_inference
from pipeline.tuning.dataset import SftDataset
from pipeline.tuning.finetuning import build_trainer, choose_start
from pipeline.tuning.loader import ConversationLoader
from tests.small_models import small_checkpoint
from tokenizer import load_tokenizer

pytestmark = pytest.mark.slow
BATCH = 8


@pytest.fixture(scope="module")
def folder(real_data, tmp_path_factory):
    """The real vocabulary, a tuned checkpoint with random weights, its export, and prepared real conversations."""
    pytest.importorskip("trl", reason="pip install -r requirements-slow.txt")
    folder = tmp_path_factory.mktemp("trl")
    (folder / "tokenizer").mkdir()
    model = real_data / "tokenizer" / "codellama_reconstructed.model"
    shutil.copyfile(model, folder / "tokenizer" / "tokenizer.model")
    tokenizer = load_tokenizer(folder / "tokenizer")
    shape = {"max_position_embeddings": 512, "weight_scale": 2.0}
    checkpoint = small_checkpoint(folder / "base.pt", tokenizer, chat=True, **shape)
    lines = (real_data / "lima" / "lima_sample_100.jsonl").read_text(encoding="utf-8").splitlines()
    # Short ones of one turn and of several, so rows of different lengths in one batch; the ninth is to validate on.
    single, several = sorted(lines[:90], key=len), sorted(lines[90:], key=len)
    chosen = [*single[: BATCH // 2], *several[: BATCH // 2], single[BATCH]]
    (folder / "chats.jsonl").write_text("\n".join(chosen), encoding="utf-8")
    lima_tokenizer.main(["--input", str(folder / "chats.jsonl"), *settings(folder)])
    config = load_config(settings=[f"paths.tokenizer_dir={folder / 'tokenizer'}"])
    write_hf_folder(load_for_inference(str(checkpoint), config, device="cpu"), folder / "hf", dtype=torch.float32)
    return folder


def settings(folder):
    names = {"tokenizer": "tokenizer", "checkpoint": "checkpoints", "log": "logs", "post_training": "data"}
    return [part for key, name in names.items() for part in ("--set", f"paths.{key}_dir={folder / name}")]


def trl_trainer(folder):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = []
    for line in (folder / "chats.jsonl").read_text(encoding="utf-8").splitlines()[:BATCH]:
        texts = json.loads(line)["conversations"]
        rows.append([{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)])
    options = SFTConfig(
        output_dir=str(folder / "trl"),
        assistant_only_loss=True,
        max_length=512,
        per_device_train_batch_size=BATCH,
        max_steps=1,
        learning_rate=5e-5,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": "float32"},
        seed=0,
    )
    return SFTTrainer(str(folder / "hf"), args=options, train_dataset=Dataset.from_dict({"messages": rows}))


def test_one_step_matches_trl(folder):
    trl = trl_trainer(folder)
    data = SftDataset.open(folder / "data")
    for row, theirs in enumerate(trl.train_dataset):
        length = int(data.lengths[row])
        ids, mask = data.ids[row, :length], data.masks[row, :length]
        assert theirs["input_ids"] == ids.tolist()
        assert theirs["labels"] == np.where(mask, ids.astype(int), -100).tolist()
    trl.train()
    expected = next(entry["loss"] for entry in trl.state.log_history if "loss" in entry)

    arguments = ["--checkpoint", str(folder / "base.pt"), "--device", "cpu", *settings(folder)]
    args = post_training.parse_args(arguments)
    start = choose_start(args, ExitStack())
    trainer = build_trainer(start, torch.device("cpu"))
    loader = ConversationLoader(data, np.arange(BATCH), batch_size=BATCH, device=torch.device("cpu"))
    batch = next(iter(loader))
    trainer.model.train()
    loss = trainer.model(**batch, num_tokens=(batch["labels"] != -100).sum(), return_logits=False)["loss"].item()
    print(f"loss of the step: ours {loss:.6f}, TRL's {expected:.6f}")
    assert loss == pytest.approx(expected, rel=1e-4)
