"""The argument parser of the stages: `--help` fits on one screen, `--help-all` explains every option.

parser = StageParser(__doc__)
parser.add_argument("--restart", action="store_true", help="…")
parser.keep_for_help_all("--restart")
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from utils.terminal import terminal_width
from utils.text_layout import columns, fold, wrap

EVERY_STAGE = ("-h", "--help-all", "--config", "--set", "--debug")
_FOOTER = "Any config key: --set SECTION.KEY=VALUE. All options: --help-all"
_HELP_COLUMN = 28


class StageParser(argparse.ArgumentParser):
    """A parser with the options of every stage: ``--config``, ``--set``, ``--debug``.

    The short help has the first paragraph of the description, its examples, and the options that most people need.
    """

    def __init__(self, description: str | None) -> None:
        super().__init__(
            usage="%(prog)s [options]",
            description=description,
            formatter_class=StageHelp,
            allow_abbrev=False,
            add_help=False,
        )
        self._for_help_all = set(EVERY_STAGE)
        self.add_argument("-h", "--help", action="help", help="print the short help and exit")
        self.add_argument("--help-all", action=_HelpAll, help="print this help and exit")
        self.add_argument("--config", metavar="PATH", help="a JSON file whose keys override config.json")
        self.add_argument(
            "--set",
            metavar="SECTION.KEY=VALUE",
            dest="settings",
            action="append",
            default=[],
            help="set one config key, e.g. --set training.batch_size=8 (repeatable)",
        )
        self.add_argument("--debug", action="store_true", help="print the traceback of an error")

    def keep_for_help_all(self, *options: str) -> None:
        """Leave these options out of the short help."""
        self._for_help_all.update(options)

    def format_help(self) -> str:
        rare = [action for action in self._actions if self._for_help_all.intersection(action.option_strings)]
        with _hidden(rare), self._with_texts(short_description(self.description or ""), _FOOTER):
            return super().format_help()

    def format_full_help(self) -> str:
        return super().format_help()

    @contextmanager
    def _with_texts(self, description: str, epilog: str) -> Iterator[None]:
        kept = self.description, self.epilog
        self.description, self.epilog = description, epilog
        try:
            yield
        finally:
            self.description, self.epilog = kept


class _HelpAll(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        assert isinstance(parser, StageParser)
        print(parser.format_full_help(), end="")
        parser.exit()


@contextmanager
def _hidden(actions: Sequence[argparse.Action]) -> Iterator[None]:
    """Leave `actions` out of the help that is formatted in the block."""
    helps = [action.help for action in actions]
    for action in actions:
        action.help = argparse.SUPPRESS
    try:
        yield
    finally:
        for action, text in zip(actions, helps, strict=True):
            action.help = text


class StageHelp(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples of a description as they are written, unless the terminal is too narrow for them."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=_HELP_COLUMN)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        text = super()._fill_text(text, width, indent)
        if not sys.stdout.isatty():
            return text
        return "\n\n".join(fold_paragraph(part, terminal_width()) for part in text.split("\n\n"))


def short_description(text: str) -> str:
    """The first paragraph and the examples."""
    first, *others = text.strip("\n").split("\n\n")
    return "\n\n".join([first, *(part for part in others if not is_prose(part))])


def is_prose(paragraph: str) -> bool:
    return not any(line.startswith((" ", "python3 ", "torchrun ")) for line in paragraph.split("\n"))


def fold_paragraph(text: str, width: int) -> str:
    """Fit a paragraph of help into `width` columns: prose that is too wide is refilled, examples keep their lines."""
    lines = text.split("\n")
    if is_prose(text) and any(columns(line) > width for line in lines):
        return fold(" ".join(lines), width)
    return "\n".join(fold_example(line, width) for line in lines)


def fold_example(line: str, width: int) -> str:
    """A line of help. If it is too wide, the comment of an example goes above it, and its command is continued."""
    if columns(line) <= width:
        return line
    code, hash_sign, comment = line.partition("  # ")
    start = " " * (len(code) - len(code.lstrip()))
    if hash_sign:
        return f"{start}# {comment}\n{fold_example(code.rstrip(), width)}"
    if not code.lstrip().startswith("python3"):
        return fold(line, width)
    return " \\\n".join(wrap(code, width - 2, indent=f"{start}    ", chop=False))
