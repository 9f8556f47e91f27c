"""Options of the configuration: types, bounds, and how they are written; the exit codes of every stage."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.configuration import load_config
from utils.cli import exit_code_of, require_package
from utils.errors import PipelineError, Terminated, UsageError
from utils.options import option, parse_setting, read_section, type_name
from utils.raw_log import is_number

FOLDER = Path("x")


@dataclass
class Section:
    count: int = option(2, "a count", minimum=1, maximum=3)
    share: float = option(0.5, "a share", above=0, maximum=1)
    limit: int | None = option(None, "a limit", minimum=0)
    kind: str = option("a", "a kind", choices=("a", "bc"))
    flag: bool = option(False, "a flag")
    folder: Path = option(FOLDER, "a folder")  # noqa: RUF009  # an option is a dataclass field
    names: tuple[str, ...] = option((), "names")


def read(**values: object) -> dict[str, object]:
    return read_section(Section, values, name="s", origin="file", base=Path("/base"))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", 1, 1), ("count", 3, 3), ("share", 1, 1.0), ("share", 0.001, 0.001), ("limit", 0, 0),
        ("limit", None, None), ("kind", "bc", "bc"), ("flag", True, True), ("flag", False, False),
        ("folder", "a/../b", Path("/base/b")), ("folder", "/c", Path("/c")),
        ("names", ["a"], ("a",)), ("names", [], ()),
    ],
)  # fmt: skip
def test_values_within_the_bounds_are_read(name, value, expected):
    assert read(**{name: value})[name] == expected
    assert type(read(**{name: value})[name]) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("count", 0, "expected at least 1"), ("count", 4, "expected at most 3"), ("count", 2.0, "expected an integer"),
        ("share", 0, "expected above 0"), ("share", 1.1, "expected at most 1"), ("share", True, "expected a number"),
        ("share", float("inf"), "expected a number"), ("limit", -1, "expected at least 0"),
        ("limit", "1", "expected an integer or null"), ("count", None, "expected an integer"),
        ("kind", "ab", "expected one of a, bc"), ("kind", 1, "expected a string"),
        ("flag", 0, "expected true or false"), ("folder", "", "expected a path"),
        ("names", "a", "expected a list of strings"), ("names", [1], "expected a list of strings"),
    ],
)  # fmt: skip
def test_values_outside_are_refused_in_words(name, value, said):
    with pytest.raises(PipelineError) as error:
        read(**{name: value})
    assert str(error.value).startswith(f"file: s.{name} is {value!r}; {said}")


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [("null", int | None, None), ("null", str | None, None), ("null", str, "null"), ("3", int, 3), ("3", str, "3"),
     ("[1]", tuple[str, ...], [1]), ("three", int, "three"), ("a/b", Path, "a/b")],
)  # fmt: skip
def test_settings_are_json_except_for_texts(text, hint, value):
    assert parse_setting(text, hint) == value


def test_types_have_names_for_people():
    assert [type_name(hint) for hint in (int, float | None, bool, tuple[str, ...])] == [
        "integer",
        "number or null",
        "true or false",
        "list of strings",
    ]


@pytest.mark.parametrize(("value", "expected"), [(1, True), (1.5, True), (True, False), ("1", False), (None, False)])
def test_true_is_not_a_number(value, expected):
    assert is_number(value) == expected


def test_a_window_as_long_as_the_context_fits():
    load_config(settings=["dataset.window=1024"])
    scaled = ["model.rope_scaling=yarn", "model.rope_scaling_factor=2"]
    load_config(settings=["dataset.window=2048", *scaled])
    with pytest.raises(PipelineError, match=r"1024 is below dataset\.window 1025; .*rope_scaling_factor=2$"):
        load_config(settings=["dataset.window=1025"])
    with pytest.raises(PipelineError, match=r"1024 x 2 \(rope_scaling_factor\) is below .*rope_scaling_factor=3$"):
        load_config(settings=["dataset.window=2049", *scaled])


@pytest.mark.parametrize("section", ["training", "sft"])
def test_the_lowest_rate_may_be_the_highest(section):
    load_config(settings=[f"{section}.learning_rate=0.5", f"{section}.min_learning_rate=0.5"])
    with pytest.raises(PipelineError, match=rf"^--set|.*{section}\.min_learning_rate 0\.6 is above"):
        load_config(settings=[f"{section}.learning_rate=0.5", f"{section}.min_learning_rate=0.6"])


def raising(error: BaseException):
    def work() -> int:
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "code", "said"),
    [
        (lambda: None, 0, ""),
        (lambda: 3, 3, ""),
        (raising(UsageError("two\n lines")), 2, "error: two lines\n"),
        (raising(PipelineError("broken")), 1, "error: broken\n"),
        (raising(Terminated()), 143, "terminated\n"),
        (raising(KeyboardInterrupt()), 130, "interrupted\n"),
        (raising(OSError(28, "No space")), 1, "error: [Errno 28] No space\n"),
        (
            raising(KeyError("x")),
            1,
            "error: unexpected KeyError: 'x'; this is a bug: run again with --debug for the traceback\n",
        ),
        (
            raising(ImportError("no name", name="utils.cli")),
            1,
            "error: unexpected ImportError: no name; this is a bug: ",
        ),
    ],
)
def test_every_end_of_a_stage_has_its_code(capsys, work, code, said):
    assert exit_code_of(work) == code
    shown = capsys.readouterr().err
    assert shown == said or (said.endswith(" ") and shown.startswith(said))


def test_a_traceback_is_printed_only_for_debug(capsys):
    assert exit_code_of(raising(KeyError("x")), debug=True) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("error: unexpected KeyError: 'x'\n")
    assert exit_code_of(raising(PipelineError("x"))) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_required_package_that_is_missing_ends_the_program(capsys):
    require_package("json")
    with pytest.raises(SystemExit) as ended:
        require_package("no_such_package")
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: the package no_such_package is not installed for ")
    assert said.count("\n") == 1
