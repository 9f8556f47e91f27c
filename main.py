"""The pipeline's menu and command line. Each stage runs in its own process.

    python3 main.py                        the menu
    python3 main.py train --test           one stage, with its arguments
    python3 main.py train --nproc 8        on 8 GPUs (torch.distributed.run)
    python3 main.py train --help           the arguments of a stage

The exit code is the stage's. On Ctrl-C the stage finishes saving before it exits.
"""

import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from utils.cli import EXIT_INTERRUPTED, EXIT_OK, EXIT_TERMINATED, run
from utils.errors import PipelineError, UsageError, did_you_mean
from utils.packages import missing_packages
from utils.processes import run_process
from utils.terminal import ask, fitted, styled

CHECKOUT = Path(__file__).resolve().parent
LAUNCHED_STAGE = "train"  # the stage that takes --nproc
LAUNCHER = str(CHECKOUT / "pipeline" / "training" / "launch.py")
# How long torch.distributed.run waits before it kills its workers; saving a large checkpoint can take minutes.
SAVING_GRACE_SECONDS = 900

# What the stages import, at start-up or when an option needs it.
_CLEANING = ("orjson", "tqdm", "mwparserfromhell", "pyarrow")
_TOKENIZER = ("numpy", "orjson", "tokenizers", "sentencepiece", "gigatoken")
_CORPUS = (*_TOKENIZER, "tqdm", "pyarrow", "matplotlib")
_CONVERSATIONS = (*_TOKENIZER, "pyarrow")
_MODEL = (*_TOKENIZER, "torch")
_TRAINING = (*_MODEL, "tqdm", "tensorboard", "matplotlib")
_TUNING = (*_TRAINING, "pyarrow")
_SCORING = (*_MODEL, "tqdm", "matplotlib", "pyarrow", "datasets", "rouge_score", "sacrebleu")
_SERVING = (*_MODEL, "fastapi", "uvicorn", "prometheus_client", "llguidance")
_WATCHING = ("numpy", "orjson", "uvicorn")
_EXPORTING = (*_MODEL, "transformers", "safetensors", "gguf")
_EVERYTHING = tuple(dict.fromkeys((*_CLEANING, *_CORPUS, *_TRAINING, *_SCORING)))
_ALL = tuple(dict.fromkeys((*_EVERYTHING, *_SERVING, *_EXPORTING)))


class Stage(NamedTuple):
    number: int
    name: str
    script: str
    purpose: str
    packages: tuple[str, ...]


STAGES = (
    Stage(1, "cleanup", "cleaner.py", "raw Wikipedia or your own files → cleaned articles", _CLEANING),
    Stage(2, "tokenize", "tokenizer.py", "download, try or train a tokenizer", _TOKENIZER),
    Stage(3, "prepare", "dataset_prep.py", "cleaned articles → token dataset", _CORPUS),
    Stage(4, "fineweb", "fineweb_prep.py", "FineWeb → token dataset", _CORPUS),
    Stage(5, "train", "train.py", "pretrain a model", _TRAINING),
    Stage(6, "inference", "Inference.py", "generate text with one model or compare several", _MODEL),
    Stage(8, "benchmark", "benchmark.py", "score checkpoints", _SCORING),
    Stage(9, "lima", "lima_tokenizer.py", "conversations → tokenized examples", _CONVERSATIONS),
    Stage(10, "sft", "post_training.py", "instruction tuning", _TUNING),
    Stage(11, "serve", "server.py", "REST API and chat page", _SERVING),
    Stage(12, "export", "export.py", "Hugging Face folder, GGUF file", _EXPORTING),
    Stage(13, "quickstart", "quickstart.py", "the whole pipeline in minutes, on a CPU", _EVERYTHING),
    Stage(14, "runs", "runs.py", "follow and compare training runs in a browser", _WATCHING),
    Stage(15, "doctor", "doctor.py", "can this machine run the route? what to fix", _ALL),
)
QUIT_NUMBER = 7
# The menu's order: what people do first, then the steps from text to a model, then what a model is used for.
GROUPS = (
    ("Start here", ("quickstart", "doctor")),
    ("Data", ("cleanup", "tokenize", "prepare", "fineweb", "lima")),
    ("Training", ("train", "sft", "runs")),
    ("A trained model", ("inference", "serve", "benchmark", "export")),
)


def available_stages() -> list[Stage]:
    return [stage for stage in STAGES if (CHECKOUT / stage.script).exists()]


def find_stage(name: str) -> Stage:
    """The stage called `name`.

    Raises:
        UsageError: there is no such stage; the message suggests the nearest name.
    """
    stages = {stage.name: stage for stage in available_stages()}
    if name not in stages:
        known = ", ".join(stages)
        raise UsageError(f"unknown stage {name!r}{did_you_mean(name, stages)}; available stages: {known}")
    return stages[name]


def build_command(stage: Stage, arguments: Sequence[str], *, python: str = sys.executable) -> list[str]:
    """The command that runs `stage`. Drops a leading ``--``; ``--nproc N`` adds torch's launcher."""
    arguments = list(arguments[1:] if arguments[:1] == ["--"] else arguments)
    script = str(CHECKOUT / stage.script)
    processes = 1
    if stage.name == LAUNCHED_STAGE:
        processes, arguments = _take_processes(arguments)
    if processes == 1:
        return [python, script, *arguments]
    launcher = [LAUNCHER, "--standalone", f"--nproc-per-node={processes}"]
    if _launcher_has_grace_option(python):
        launcher.append(f"--shutdown-timeout={SAVING_GRACE_SECONDS}")
    return [python, *launcher, script, *arguments]


def run_stage(stage: Stage, arguments: Sequence[str] = ()) -> int:
    """Run `stage` and return its exit code. Signals are forwarded, and the stage has time to save."""
    command = build_command(stage, arguments, python=stage_python(stage))
    launched = LAUNCHER in command
    # Every rank must be signalled only once: in their own process group, the launcher's workers do not get the
    # terminal's Ctrl-C on top of the launcher's signal.
    code, signals, _ = run_process(command, own_group=launched)
    if launched and code and signals:
        return EXIT_TERMINATED if signal.SIGTERM in signals else EXIT_INTERRUPTED
    if code >= 0:
        return code
    if -code not in (signal.SIGINT, signal.SIGTERM):
        memory = " (the system may have run out of memory)" if -code == signal.SIGKILL else ""
        print(f"error: {stage.name} was killed by {signal.Signals(-code).name}{memory}", file=sys.stderr)
    return 128 - code


def stage_python(stage: Stage) -> str:
    """The Python that runs `stage`: this one, or the checkout's .venv if this one lacks any of the stage's packages.

    Without a .venv this one is used, and the stage itself reports what is missing.
    """
    environment = CHECKOUT / ".venv"
    installed = environment / "bin" / "python"
    if not installed.exists() or Path(sys.prefix) == environment:
        return sys.executable
    missing = missing_packages(stage.packages)
    if not missing:
        return sys.executable
    if len(missing) < len(stage.packages):  # a Python with some of the packages may be intentional
        print(f"note: {sys.executable} has no {missing[0]}; running with {installed}", file=sys.stderr)
    return str(installed)


def menu() -> int:
    """Ask for a stage and its arguments, run it, and ask whether to run another."""
    print(_menu_text())
    while True:
        stage = _ask_stage()
        if stage is None:
            return EXIT_OK
        arguments = _ask_arguments(stage)
        if arguments is None:
            print(_menu_text())
            continue
        try:
            code = run_stage(stage, arguments)
        except PipelineError as error:
            print(styled(f"error: {error}", "red"))
        else:
            print(_outcome(stage, code))
        if ask("\nRun another module? [Y/n] ").lower() in ("n", "no", "q", "7"):
            return EXIT_OK
        print(_menu_text())


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        return menu()
    if arguments[0] in ("-h", "--help"):
        print(help_text())
        return EXIT_OK
    if arguments[0].startswith("-"):
        raise UsageError(f"{arguments[0]} must come after the stage name: python3 main.py NAME {arguments[0]}")
    return run_stage(find_stage(arguments[0]), arguments[1:])


def _take_processes(arguments: list[str]) -> tuple[int, list[str]]:
    """``["--nproc", "2", "--test"]`` → (2, ["--test"]); 1 if it is not given."""
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name != "--nproc":
            continue
        if not equals:
            value = arguments[index + 1] if index + 1 < len(arguments) else ""
        if not value.isdecimal() or int(value) < 1:
            raise UsageError(f"invalid --nproc value {value!r}; expected a number of processes, for example --nproc 2")
        return int(value), arguments[:index] + arguments[index + (1 if equals else 2) :]
    return 1, arguments


def _launcher_has_grace_option(python: str) -> bool:
    """Whether torch has --shutdown-timeout (older versions wait 30 s). Reads the file: importing takes seconds."""
    root = Path(python).parent.parent if python != sys.executable else Path(sys.prefix)
    launchers = root.glob("lib*/python3*/site-packages/torch/distributed/run.py")
    return any("--shutdown-timeout" in launcher.read_text(encoding="utf-8") for launcher in launchers)


def help_text() -> str:
    """The forms of the command, and the stages, on one screen."""
    examples = (__doc__ or "").split("\n\n")[1]
    return fitted("\n".join([examples, *_stage_lines()]))


def _menu_text() -> str:
    title = styled("Language model pipeline", "bold", "cyan")
    return fitted("\n".join(["", title, *_stage_lines(), _menu_line(QUIT_NUMBER, "quit", "or q"), ""]))


def _stage_lines() -> list[str]:
    """The stages by group."""
    stages = {stage.name: stage for stage in available_stages()}
    lines = []
    for title, names in GROUPS:
        group = [stages[name] for name in names if name in stages]
        if group:
            lines.append(styled(title, "bold"))
        lines += [_menu_line(stage.number, stage.name, stage.purpose) for stage in group]
    return lines


def _menu_line(number: int, name: str, purpose: str) -> str:
    return f"  {number:>2}  {styled(f'{name:<11}', 'cyan')} {purpose}"


def _ask_stage() -> Stage | None:
    """Ask for a stage by name or number; None means quit."""
    numbers = {str(stage.number): stage for stage in available_stages()}
    names = [*(stage.name for stage in numbers.values()), "quit"]
    while True:
        answer = ask("Number or name: ", complete=lambda before: names).lower()
        if answer in (str(QUIT_NUMBER), "q", "quit"):
            return None
        if answer in numbers:
            return numbers[answer]
        try:
            return find_stage(answer)
        except UsageError as error:
            print(styled(str(error), "yellow") if answer else "")


def _ask_arguments(stage: Stage) -> list[str] | None:
    """The arguments as a shell would split them; None goes back to the menu."""
    print(f"Arguments for {stage.name}: Enter for none, --help for the list, q to go back")
    while True:
        answer = ask(f"{stage.name} ", history="arguments", complete=lambda before: _argument_words())
        if answer.lower() in ("q", "quit"):
            return None
        try:
            return shlex.split(answer)
        except ValueError as error:
            print(styled(f"{error}: a quotation mark is not closed", "yellow"))


def _argument_words() -> list[str]:
    """What the Tab key completes: the options of every stage, and the runs in the default folder."""
    checkpoints = CHECKOUT / "checkpoints"
    runs = sorted(folder.name for folder in checkpoints.iterdir() if folder.is_dir()) if checkpoints.is_dir() else []
    return ["--help", "--help-all", "--config", "--set", "--test", "--checkpoint", "--resume", "latest", *runs]


def _outcome(stage: Stage, code: int) -> str:
    if code == EXIT_OK:
        return styled(f"{stage.name} is done", "green")
    if code in (EXIT_INTERRUPTED, EXIT_TERMINATED):
        return styled(f"{stage.name} was interrupted", "yellow")
    return styled(f"{stage.name} failed with exit code {code}", "red")


if __name__ == "__main__":
    run(main)
