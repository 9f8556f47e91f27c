"""Inference.py: the command line, the menus with typed answers, and one-line errors."""

import builtins
import json
import os
import sys
from pathlib import Path

import pytest
import torch

import Inference
from model import create_model
from pipeline.configuration import load_config
from pipeline.console import comparison
from pipeline.console.comparison import Result, side_by_side, summary
from pipeline.console.menus import parse_numbers
from pipeline.console.streaming_output import Statistics
from pipeline.formats.chat_template import WITHOUT_SYSTEM
from pipeline.formats.checkpoint import write_checkpoint
from pipeline.generation.row import TokenEvent
from tokenizer import WikipediaTokenizer
from utils.cli import exit_code_of
from utils.processes import Finished
from utils.terminal import visible
from utils.text_layout import wrap

MODEL = ["hidden_size=32", "num_hidden_layers=2", "num_attention_heads=4", "num_key_value_heads=2"]
TEXT = "the cat sat on the mat and the dog ran to the house with a ball of red wool\n"


def train_tokenizer(folder: Path, text: str, vocab_size: int) -> WikipediaTokenizer:
    source = folder.with_suffix(".txt")
    source.write_text(text * 20, encoding="utf-8")
    tokenizer = WikipediaTokenizer.train([source], vocab_size, folder)
    tokenizer.save()
    return tokenizer


def write_run(folder: Path, tokenizer: WikipediaTokenizer, *names: str, seed: int = 0, **extra) -> None:
    model_settings = [f"model.{setting}" for setting in [*MODEL, f"vocab_size={tokenizer.vocab_size}"]]
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
    write_run(base / "tuned" / "sft_lima_2026_01_03_10_00", tokenizer, "latest", seed=9, chat_template=WITHOUT_SYSTEM)
    return base


@pytest.fixture
def infer(home, capsys):
    """Run Inference.py with arguments; returns (exit code, stdout, stderr)."""

    def call(*arguments: str, checkpoints: Path | None = None) -> tuple[int, str, str]:
        places = [f"paths.checkpoint_dir={checkpoints or home / 'checkpoints'}", f"paths.tokenizer_dir={home / 'tok'}"]
        options = [option for place in places for option in ("--set", place)]
        code = exit_code_of(lambda: Inference.main([*arguments, *options, "--device", "cpu"]))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def type_answers(monkeypatch):
    """Answer the next questions in order; then the input ends."""

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
    texts = {infer("--checkpoint", str(path), *options)[1] for path in (folder, folder / "checkpoint_latest.pt")}
    assert len(texts) == 1


def test_menus_lead_to_text_and_the_next_prompt(infer, type_answers):
    own = ["6", "0", "0", "1", "", "", "7"]  # length, temperature, top-k, top-p, min-p, penalty, seed
    type_answers("1", "1", "1", "the cat", "2", *own, "the dog", "q")
    code, out, _ = infer("--max-length", "5")
    assert code == 0
    assert out.index("run_2026_01_02_10_00") < out.index("run_2026_01_01_10_00")
    assert "first try" in out
    assert "← newest" in out.split("run_2026_01_01_10_00")[0]
    assert "the cat" in out
    assert out.count("tokens/s") == 2
    assert out.count("Parameters (") == 1
    assert out.count("6 tokens in") == 2
    assert "loading" not in out.split("the dog")[1]


def test_invalid_answers_and_prompts_are_asked_again(infer, type_answers):
    type_answers("9", "1", "x", "", "", "", "the " * 2000, "the cat", "")
    code, out, _ = infer("--max-length", "3")
    assert code == 0
    assert "'9' is not a number from 1 to" in out
    assert "the prompt is empty" in out
    assert "the model's context is 1,024" in out
    assert out.count("tokens/s") == 1


def test_flat_checkpoints_skip_the_run_menu(infer, type_answers, home):
    flat = home / "flat"
    write_run(flat, WikipediaTokenizer(home / "tok"), "latest", "best")
    type_answers("1", "2", "the cat", "1", "q")
    code, out, _ = infer("--max-length", "3", checkpoints=flat)
    assert code == 0
    assert "Training runs" not in out


def test_no_escape_codes_outside_a_terminal(infer, type_answers):
    type_answers("1", "1", "1", "the cat", "1", "q")
    assert "\x1b" not in "".join(infer("--max-length", "3")[1:])


def test_a_checkpoint_with_compiled_names_is_read(infer, home, tmp_path):
    content = torch.load(home / "checkpoints" / "run_2026_01_01_10_00" / "checkpoint_best.pt", weights_only=True)
    content["model"] = {f"_orig_mod.{name}": tensor for name, tensor in content["model"].items()}
    write_checkpoint(tmp_path / "checkpoint_best.pt", content)
    assert infer("--checkpoint", str(tmp_path), "--prompt", "the", "--max-length", "2")[0] == 0


def test_tokenizer_is_found_through_the_checkpoint(infer, home, tmp_path):
    other = train_tokenizer(tmp_path / "other", "völlig andere Wörter, ganz andere Zeichen\n", 290)
    write_run(tmp_path / "run", other, "latest")
    code, _, err = infer("--checkpoint", str(tmp_path / "run"), "--prompt", "x", "--max-length", "2")
    assert (code, "error" in err) == (0, False)
    (tmp_path / "other" / "tokenizer.json").unlink()
    code, _, err = infer("--checkpoint", str(tmp_path / "run"), "--prompt", "x", "--max-length", "2")
    assert code == 1
    assert "was trained with tokenizer other" in err
    assert "has a different tokenizer" in err
    assert "--tokenizer DIR" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--prompt", "x"], 2, "--prompt requires --checkpoint"),
        (["--checkpoint", "nothing", "--prompt", "x"], 1, "checkpoint nothing does not exist"),
        (["--checkpoint", "latest", "--prompt", ""], 1, "the prompt is empty"),
        (["--checkpoint", "latest", "--prompt", "a\udcff"], 1, "the prompt is not valid UTF-8 (at character 2)"),
        (["--checkpoint", "latest", "--prompt", "x", "--temperature", "nan"], 1, "generation.temperature is nan"),
        (["--checkpoint", "latest", "--prompt", "x", "--temperature", "-1"], 1, "generation.temperature is -1.0"),
        (["--checkpoint", "latest", "--prompt", "x", "--top-k", "-1"], 1, "generation.top_k is -1"),
        (["--checkpoint", "latest", "--prompt", "x", "--top-p", "0"], 1, "generation.top_p is 0.0"),
        (["--checkpoint", "latest", "--prompt", "x", "--max-length", "0"], 1, "generation.max_length is 0"),
        (["--checkpoint", "latest", "--prompt", "word " * 200_000], 1, "the model's context is 1,024; shorten it"),
    ],
)
def test_mistakes_are_one_line_errors(infer, capsys, arguments, code, message):
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


def test_invalid_checkpoint_files_are_one_line_errors(infer, home, tmp_path):
    whole = (home / "checkpoints" / "run_2026_01_01_10_00" / "checkpoint_best.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"model": _Code(str(tmp_path / "owned"))}, tmp_path / "code.pt")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    messages = {
        "cut": "it is truncated",
        "text": "is not a PyTorch",
        "code": "could execute code",
        "other": "--import-checkpoint",
    }
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


def test_several_checkpoints_are_shown_side_by_side(infer, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    first, second = "old=run_2026_01_01_10_00", "run_2026_01_02_10_00"
    options = ["--prompt", "the cat", "--temperature", "0", "--max-length", "6"]
    code, out, err = infer("--checkpoint", first, "--checkpoint", second, *options)
    assert code == 0
    assert "2 models need" in err
    assert "fastest: " in out
    assert "most tokens: " in out
    alone = [infer("--checkpoint", path, *options)[1].strip() for path in (first, second)]
    assert [cell.strip() for cell in out.strip().splitlines()[2].split("│")] == alone
    assert max(map(len, out.splitlines())) <= 100


def test_checkpoints_with_equal_names_are_distinguished(infer):
    code, _, err = infer("--checkpoint", "latest", "--checkpoint", "latest", "--prompt", "x")
    assert code == 2
    assert "give them different names" in err


def test_json_holds_texts_and_statistics(infer):
    options = ["--prompt", "the cat", "--max-length", "6", "--seed", "2"]
    code, out, _ = infer("--checkpoint", "a=latest", "--checkpoint", "b=run_2026_01_01_10_00", *options, "--json")
    content = json.loads(out)
    assert code == 0
    assert [result["name"] for result in content["results"]] == ["a", "b"]
    assert visible(content["results"][0]["text"]) + "\n" == infer("--checkpoint", "latest", *options)[1]
    assert content["settings"]["seed"] == 2
    assert content["results"][0].keys() >= {"new_tokens", "tokens_per_second", "finish_reason", "checkpoint"}


def test_json_output_has_no_control_characters(infer, monkeypatch):
    events = [TokenEvent(1, 40, "a\x1b[2J\x9bb")]
    monkeypatch.setattr("pipeline.console.streaming_output.stream_events", lambda *arguments, **options: iter(events))
    _, out, _ = infer("--checkpoint", "latest", "--prompt", "the cat", "--json")
    assert not {"\x1b", "\x9b"} & set(out)
    assert json.loads(out)["results"][0]["text"] == events[0].text


def test_the_comparison_by_menus(infer, type_answers):
    type_answers("2", "1", "1,3", "the cat", "1", "the dog", "q")
    code, out, _ = infer("--max-length", "4")
    assert code == 0
    assert out.count("fastest: ") == 2
    type_answers("2", "1", "7", "all", "q")
    assert "'7' is not a list of numbers from 1 to 3" in infer("--max-length", "4")[1]


def test_checkpoints_of_any_runs_are_compared(infer, type_answers):
    type_answers("2", "all", "", "the cat", "", "q")
    code, out, _ = infer("--max-length", "4")
    assert code == 0
    assert "[2,5]" in out
    assert "run_2026_01_01_10_00/best  " in out
    assert "run_2026_01_02_10_00/best  " in out
    type_answers("2", "run_2026_01_01_10_00,2", "run_2026_01_01_10_00/latest,best", "q")
    assert "is not a list of numbers" in infer()[1]
    type_answers("1", "run_2026_01_01_10_00", "latest", "q")
    assert "run_2026_01_01_10_00: " in infer()[1]


def test_commands_are_carried_out_and_not_sent(infer, type_answers, tmp_path):
    target = tmp_path / "saved.md"
    texts = ["/usr/bin is", "//help"]
    commands = ["/halp", "/settings temperature=0 max-length=3 seed=none", "/settings top_k=many", f"/save {target}"]
    type_answers("/save", commands[0], commands[1], *texts, commands[2], commands[3], commands[3], "/clear", "/save")
    code, out, _ = infer("--checkpoint", "run_2026_01_01_10_00")
    assert code == 0
    assert out.count("tokens/s") == 2
    assert out.count("3 tokens in") == 2
    for answer in (
        "unknown command /halp; did you mean 'help'?",
        "/settings NAME=VALUE",
        "top_k is 'many'; expected an integer",
        "saved.md already exists",
    ):
        assert answer in out
    assert out.count("there is nothing to save yet") == 2
    saved = target.read_text(encoding="utf-8")
    assert saved.count("## Prompt") == 2
    assert "/usr/bin is" in saved
    assert "## Prompt\n\n/help\n" in saved


def test_ctrl_c_ends_a_comparison_and_asks_again(infer, type_answers, monkeypatch):
    from pipeline.generation.generate import stream_events as original

    def interrupted(*arguments, **options):
        yield next(original(*arguments, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.console.streaming_output.stream_events", interrupted)
    type_answers("the cat", "the dog", "q")
    arguments = ["--checkpoint", "run_2026_01_01_10_00", "--checkpoint", "run_2026_01_02_10_00"]
    code, out, _ = infer(*arguments)
    assert code == 0
    assert out.count("total: 1 tokens") == 2


def test_low_memory_warns_and_asks_before_loading(infer, type_answers, monkeypatch):
    monkeypatch.setattr(comparison, "free_memory", lambda device: 10_000)
    type_answers("2", "1", "all", "n")
    code, out, err = infer()
    assert code == 0
    assert "warning: 3 models need" in err
    assert "9.8 KB free on cpu" in err
    assert "Prompt for all" not in out


def test_menu_starts_the_chosen_benchmark(infer, type_answers, monkeypatch):
    commands = []
    finished = Finished(3, [], "")
    monkeypatch.setattr(
        "pipeline.console.benchmark_menu.run_process", lambda command: commands.append(command) or finished
    )
    type_answers("3", "1", "1,2", "1", "2")
    assert infer()[0] == 3
    python, router, stage, *options = commands[0]
    assert (python, Path(router).name, stage) == (sys.executable, "main.py", "benchmark")
    assert options[0] == "--quick"
    assert "--offline-samples" in options
    assert options.count("--checkpoint") == 2
    assert options[options.index("--device") + 1] == "cpu"
    assert any(option.startswith("paths.checkpoint_dir=") for option in options)


def test_a_fine_tuned_run_is_asked_in_its_template(infer, home, monkeypatch):
    from pipeline.generation.generate import stream_events as original

    seen = []
    monkeypatch.setattr(
        "pipeline.console.streaming_output.stream_events",
        lambda m, ids, *a, **k: seen.append(ids) or original(m, ids, *a, **k),
    )
    code, _, _ = infer("--checkpoint", str(home / "tuned"), "--prompt", "the cat?", "--max-length", "4")
    tokenizer = WikipediaTokenizer(home / "tok")
    assert code == 0
    assert seen == [tokenizer.encode("User: the cat?\nAssistant:", add_bos=True)]


def test_a_chat_keeps_its_history_until_new(infer, home, type_answers, monkeypatch):
    from pipeline.formats.chat_template import encode_prompt as original

    asked = []
    monkeypatch.setattr(
        "pipeline.formats.chat_template.encode_prompt",
        lambda t, messages, **how: asked.append(list(messages)) or original(t, messages, **how),
    )
    type_answers("the cat", "", "the dog", "/new", "the house", "q")
    code, out, _ = infer("--checkpoint", str(home / "tuned"), "--max-length", "3")
    assert code == 0
    assert "the prompt is empty" in out
    assert [[message["role"] for message in messages] for messages in asked] == [
        ["user"],
        ["user", "assistant", "user"],
        ["user"],
    ]
    assert out.count("Model: ") == 3


def test_ctrl_c_ends_text_in_menus_else_the_program(infer, type_answers, monkeypatch):
    from pipeline.generation.generate import stream_events as original

    def interrupted(*arguments, **options):
        for number, event in enumerate(original(*arguments, **options)):
            if number == 3:
                raise KeyboardInterrupt
            yield event

    monkeypatch.setattr("pipeline.console.streaming_output.stream_events", interrupted)
    type_answers("1", "1", "1", "the cat", "1", "the dog", "q")
    code, out, _ = infer()
    assert code == 0
    assert out.count("3 tokens in") == out.count("ended by: Ctrl-C") == 2
    assert infer("--checkpoint", "latest", "--prompt", "the cat")[0] == 130


def test_a_long_chat_drops_its_oldest_turns(infer, home, type_answers):
    type_answers("the cat " * 60, "the dog " * 60, "the house " * 60, "the mat " * 60, "q")
    code, out, _ = infer("--checkpoint", str(home / "tuned"), "--max-length", "300")
    assert code == 0
    assert "dropped: the context is limited to 1,024 tokens" in out
    assert out.count("tokens/s") == 4


def results_of(*texts: str) -> list[Result]:
    return [
        Result(f"model {i}", Path("x.pt"), text, Statistics(3, 10 * i, 2.0, 0.1)) for i, text in enumerate(texts, 1)
    ]


@pytest.mark.parametrize("width", [20, 60, 100, 200])
def test_columns_fit_any_terminal_and_lose_nothing(width):
    texts = ["one two three " * 9, "你好世界" * 20, "", "a" * 150, "line\n\n    indented"]
    shown = side_by_side(results_of(*texts), width=width)
    assert max(sum(2 if "\u4e00" <= c <= "\u9fff" else 1 for c in line) for line in shown.splitlines()) <= width
    for character, count in (("a", 150), ("好", 20)):
        assert shown.count(character) == count


def test_lines_break_at_spaces():
    assert wrap("one two three\n  four", 8) == ["one two", "three", "  four"]
    assert wrap("abcdefghij k", 4) == ["abcd", "efgh", "ij k"]


def test_summary_shows_the_fastest_and_the_longest():
    results = results_of("a", "b")
    results[0].statistics.seconds = 0.1
    text = summary(results)
    assert "fastest: model 1 (100.0 tokens/s)" in text
    assert "most tokens: model 2 (20)" in text
