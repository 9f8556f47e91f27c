"""Inference.py: the plain form, the menus by typed answers, and one clear line for everything that cannot be done."""

import builtins
import os
from pathlib import Path

import pytest
import torch

import Inference
from console.menus import parse_numbers
from model import create_model
from tokenizer import WikipediaTokenizer
from utils.checkpoint import write_checkpoint
from utils.cli import exit_code_of
from utils.config import load_config

MODEL = ["hidden_size=32", "num_hidden_layers=2", "num_attention_heads=4", "num_key_value_heads=2"]
TEXT = "the cat sat on the mat and the dog ran to the house with a ball of red wool\n"


def train_tokenizer(folder: Path, text: str, vocab_size: int) -> WikipediaTokenizer:
    source = folder.with_suffix(".txt")
    source.write_text(text * 20, encoding="utf-8")
    tokenizer = WikipediaTokenizer.train([source], vocab_size, folder)
    tokenizer.save()
    return tokenizer


def write_run(folder: Path, tokenizer: WikipediaTokenizer, *names: str, seed: int = 0, **extra) -> None:
    model_settings = [f"model.{each}" for each in [*MODEL, f"vocab_size={tokenizer.vocab_size}"]]
    config = load_config(settings=[*model_settings, f"paths.tokenizer_dir={tokenizer.directory}"])
    for number, name in enumerate(names):
        torch.manual_seed(seed + number)
        model = create_model(config)
        with torch.no_grad():
            model.model.embed_tokens.weight.mul_(20)
        content = {"model": model.state_dict(), "config": config.to_dict(), "step": 10 * number, **extra}
        content["tokenizer"] = {"name": tokenizer.name, "fingerprint": tokenizer.fingerprint}
        path = folder / f"checkpoint_{name}.pt"
        write_checkpoint(path, content)
        os.utime(path, (1e9 + number, 1e9 + number))


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("inference")
    tokenizer = train_tokenizer(base / "tok", TEXT, 290)
    write_run(base / "checkpoints" / "run_2026_01_01_10_00", tokenizer, "best", "latest", name="first try")
    write_run(base / "checkpoints" / "run_2026_01_02_10_00", tokenizer, "step_5", "best", "latest", seed=5)
    return base


@pytest.fixture
def infer(home, capsys):
    """Runs Inference.py with arguments; gives (exit code, stdout, stderr)."""

    def call(*arguments: str, checkpoints: Path | None = None) -> tuple[int, str, str]:
        places = [f"paths.checkpoint_dir={checkpoints or home / 'checkpoints'}", f"paths.tokenizer_dir={home / 'tok'}"]
        options = [option for place in places for option in ("--set", place)]
        code = exit_code_of(lambda: Inference.main([*arguments, *options, "--device", "cpu"]))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def type_answers(monkeypatch):
    """Answers the questions to come, in order; after the last one the input ends."""

    def prepare(*answers: str) -> None:
        waiting = iter(answers)

        def read(question: str = "") -> str:
            print(question, end="")
            try:
                return next(waiting)
            except StopIteration:
                raise EOFError from None

        monkeypatch.setattr(builtins, "input", read)

    return prepare


def test_text_on_stdout_and_statistics_on_stderr(infer):
    drawn = ["--max-length", "12", "--temperature", "50"]
    arguments = ["--checkpoint", "latest", "--prompt", "the cat", *drawn, "--seed", "3"]
    code, out, err = infer(*arguments)
    assert code == 0
    assert out.endswith("\n")
    assert "tokens/s" in err
    assert "tokens/s" not in out
    assert infer(*arguments)[1] == out
    assert infer(*arguments[:-1], "4")[1] != out


def test_a_run_folder_and_a_file_mean_the_same_checkpoint(infer, home):
    options = ["--prompt", "the dog", "--temperature", "0", "--max-length", "8"]
    folder = home / "checkpoints" / "run_2026_01_01_10_00"
    texts = {infer("--checkpoint", str(each), *options)[1] for each in (folder, folder / "checkpoint_latest.pt")}
    assert len(texts) == 1


def test_the_menus_lead_from_mode_to_text_and_the_next_prompt(infer, type_answers):
    own = ["6", "0", "0", "1", "", "", "7"]  # length, temperature, top-k, top-p, min-p, penalty, seed
    type_answers("1", "1", "1", "the cat", "1", "the dog", "2", *own, "q")
    code, out, _ = infer("--max-length", "5")
    assert code == 0
    assert out.index("run_2026_01_02_10_00") < out.index("run_2026_01_01_10_00")
    assert "first try" in out
    assert "← newest" in out.split("run_2026_01_01_10_00")[0]
    assert "the cat" in out
    assert out.count("tokens/s") == 2
    assert "loading" not in out.split("the dog")[1]


def test_a_wrong_answer_is_asked_again_and_a_bad_prompt_is_said(infer, type_answers):
    type_answers("9", "1", "x", "", "", "", "the " * 2000, "the cat", "")
    code, out, _ = infer("--max-length", "3")
    assert code == 0
    assert "'9' is not a number from 1 to" in out
    assert "the prompt is empty" in out
    assert "the model's context holds 1,024" in out
    assert out.count("tokens/s") == 1


def test_flat_checkpoints_need_no_choice_of_run(infer, type_answers, home):
    flat = home / "flat"
    write_run(flat, WikipediaTokenizer(home / "tok"), "latest", "best")
    type_answers("1", "2", "the cat", "1", "q")
    code, out, _ = infer("--max-length", "3", checkpoints=flat)
    assert code == 0
    assert "Training runs" not in out


def test_no_escape_codes_where_output_is_no_terminal(infer, type_answers):
    type_answers("1", "1", "1", "the cat", "1", "q")
    assert "\x1b" not in "".join(infer("--max-length", "3")[1:])


def test_a_checkpoint_with_compiled_names_is_read(infer, home, tmp_path):
    content = torch.load(home / "checkpoints" / "run_2026_01_01_10_00" / "checkpoint_best.pt", weights_only=True)
    content["model"] = {f"_orig_mod.{name}": tensor for name, tensor in content["model"].items()}
    write_checkpoint(tmp_path / "checkpoint_best.pt", content)
    assert infer("--checkpoint", str(tmp_path), "--prompt", "the", "--max-length", "2")[0] == 0


def test_the_tokenizer_is_found_where_the_checkpoint_says(infer, home, tmp_path):
    other = train_tokenizer(tmp_path / "other", "völlig andere Wörter, ganz andere Zeichen\n", 290)
    write_run(tmp_path / "run", other, "latest")
    code, _, err = infer("--checkpoint", str(tmp_path / "run"), "--prompt", "x", "--max-length", "2")
    assert (code, "error" in err) == (0, False)
    (tmp_path / "other" / "tokenizer.json").unlink()
    code, _, err = infer("--checkpoint", str(tmp_path / "run"), "--prompt", "x", "--max-length", "2")
    assert code == 1
    assert "was trained with the tokenizer other" in err
    assert "has another tokenizer" in err
    assert "--tokenizer DIR" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--prompt", "x"], 2, "--prompt needs --checkpoint"),
        (["--checkpoint", "nothing", "--prompt", "x"], 1, "checkpoint nothing does not exist"),
        (["--checkpoint", "latest", "--prompt", ""], 1, "the prompt is empty"),
        (["--checkpoint", "latest", "--prompt", "a\udcff"], 1, "the prompt is not valid UTF-8 at character 2"),
        (["--checkpoint", "latest", "--prompt", "x", "--temperature", "nan"], 1, "generation.temperature is nan"),
        (["--checkpoint", "latest", "--prompt", "x", "--temperature", "-1"], 1, "generation.temperature is -1.0"),
        (["--checkpoint", "latest", "--prompt", "x", "--top-k", "-1"], 1, "generation.top_k is -1"),
        (["--checkpoint", "latest", "--prompt", "x", "--top-p", "0"], 1, "generation.top_p is 0.0"),
        (["--checkpoint", "latest", "--prompt", "x", "--max-length", "0"], 1, "generation.max_length is 0"),
        (["--checkpoint", "latest", "--prompt", "word " * 200_000], 1, "the model's context holds 1,024; shorten it"),
    ],
)
def test_what_cannot_be_done_is_one_line(infer, capsys, arguments, code, message):
    try:
        found, out, err = infer(*arguments)
    except SystemExit as exit_:  # argparse's own usage errors
        found, out, err = exit_.code, "", capsys.readouterr().err
    assert found == code
    assert message in err.splitlines()[-1]
    assert out == ""


class _Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_files_that_are_no_checkpoints_are_one_line(infer, home, tmp_path):
    whole = (home / "checkpoints" / "run_2026_01_01_10_00" / "checkpoint_best.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"model": _Code(str(tmp_path / "owned"))}, tmp_path / "code.pt")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    messages = {"cut": "it was cut off", "text": "is not a PyTorch", "code": "could run code", "other": "no checkpoint"}
    for name, message in messages.items():
        code, _, err = infer("--checkpoint", str(tmp_path / f"{name}.pt"), "--prompt", "x")
        assert code == 1
        assert message in err.splitlines()[-1]
    assert not (tmp_path / "owned").exists()


def test_lists_of_numbers():
    assert parse_numbers("1,3,5", 5) == [1, 3, 5]
    assert parse_numbers(" 2 2, 1", 5) == [2, 1]
    assert parse_numbers("ALL", 3) == [1, 2, 3]
    assert parse_numbers("6", 5) == parse_numbers("1,x", 5) == parse_numbers("0", 5) == []
