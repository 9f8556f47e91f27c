"""The parts of the benchmark, compared with simple versions. For the harness itself, see test_benchmark_parity.py."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import benchmark
import lima_tokenizer
import post_training
from benchmark import ModelBenchmark, format_benchmark_results
from pipeline.configuration import load_config
from pipeline.evaluation.benchmark_sets import TASKS, load_sets
from pipeline.evaluation.contamination import contamination
from pipeline.evaluation.hellaswag import Choice
from pipeline.evaluation.html_report import benchmark_page
from pipeline.evaluation.lambada import LastWord
from pipeline.evaluation.multiple_choice import chance_of_best
from pipeline.evaluation.report_files import ReportFiles
from pipeline.evaluation.results import NOT_COMPARABLE
from pipeline.evaluation.scoring import Request, Score, Scorer, encode_pairs
from pipeline.evaluation.statistics import BleuFigure, Figure, compare, mcnemar, mean_ranks
from pipeline.evaluation.task import evenly_spaced
from pipeline.evaluation.wikitext_perplexity import Page, rolling_requests, wikitext_pages
from pipeline.generation.loading import load_for_inference
from tests.small_models import small_checkpoint, trained_tokenizer
from utils.errors import PipelineError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return trained_tokenizer(tmp_path_factory.mktemp("benchmark") / "tokenizer")


@pytest.fixture(scope="module")
def checkpoints(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "run_2026_01_01_10_00"
    small_checkpoint(folder / "checkpoint_step_10.pt", tokenizer, weight_scale=2.0)
    small_checkpoint(folder / "checkpoint_latest.pt", tokenizer)
    content = torch.load(folder / "checkpoint_step_10.pt", weights_only=True)
    torch.save(content | {"step": 10}, folder / "checkpoint_step_10.pt")
    return folder


@pytest.fixture(scope="module")
def model(checkpoints):
    return load_for_inference(str(checkpoints), load_config(), device="cpu").model


def plain_score(model, request: Request) -> list[float]:
    """The reference for batches: one request at a time, all logits, log-softmax."""
    ids = torch.tensor([[*request.context, *request.continuation][:-1]])
    with torch.no_grad():
        logprobs = model(ids)["logits"][0].log_softmax(-1)
    start = len(request.context) - 1
    return [logprobs[start + index, token].item() for index, token in enumerate(request.continuation)]


def random_ids(count: int, seed: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(3, 300, count).tolist())


@pytest.mark.parametrize("batch_tokens", [1, 64, 4096])
def test_batches_and_shared_contexts_score_as_one_by_one(model, batch_tokens):
    shared = random_ids(20, 0)
    requests = [Request(shared, random_ids(length, length)) for length in (1, 5, 9, 3)]
    requests += [Request(random_ids(length, 50 + length), random_ids(4, length)) for length in (1, 2, 30, 8)]
    requests += [Request(random_ids(11, 1), random_ids(1, length)) for length in (7, 8)]
    for request, score in zip(requests, Scorer(model, batch_tokens=batch_tokens).score(requests), strict=True):
        expected = plain_score(model, request)
        assert score.logprobs.tolist() == pytest.approx(expected, abs=1e-4)
        ids = torch.tensor([[*request.context, *request.continuation]])
        with torch.no_grad():
            likeliest = model(ids)["logits"][0].argmax(-1)[len(request.context) - 1 : -1]
        assert score.greedy_chance == (likeliest.tolist() == list(request.continuation))


def test_batches_are_filled_up_to_their_limit(model, monkeypatch):
    counts = []
    original = model.hidden_states
    monkeypatch.setattr(
        model, "hidden_states", lambda ids, cache: counts.append(ids.numel()) or original(ids, cache=cache)
    )
    requests = [Request(random_ids(9, number), random_ids(1, number)) for number in range(5)]
    Scorer(model, batch_tokens=20).score(requests)
    assert counts == [18, 18, 9]


def test_a_shared_context_is_read_once_without_padding(model, monkeypatch):
    counts = []
    original = model.hidden_states
    monkeypatch.setattr(
        model, "hidden_states", lambda ids, cache: counts.append(ids.numel()) or original(ids, cache=cache)
    )
    context = random_ids(20, 0)
    Scorer(model).score([Request(context, random_ids(length, length)) for length in (2, 7, 1, 7)])
    assert counts == [20 + 1 + 6]  # the last tokens are not read, and the repeated request is not scored again


def test_the_same_request_has_exactly_the_same_score(model):
    request, other = Request(random_ids(20, 0), random_ids(5, 1)), Request(random_ids(20, 0), random_ids(9, 2))
    first, _, second = Scorer(model).score([request, other, request])
    assert first.total == second.total


def test_a_context_too_long_loses_its_beginning(model):
    window = model.config.context_length
    request = Request(random_ids(window + 20, 0), random_ids(5, 1))
    kept = Request(request.context[20 + 5 - 1 :], request.continuation)
    assert Scorer(model).score([request])[0].total == pytest.approx(sum(plain_score(model, kept)), abs=1e-3)


def test_a_continuation_longer_than_the_context_is_refused(model):
    length = model.config.context_length + 1
    with pytest.raises(PipelineError, match=f"a continuation has {length} tokens"):
        Scorer(model).score([Request((1,), random_ids(length, 0))])


def test_groups_too_long_for_one_batch_are_split(model):
    window = model.config.context_length
    long_context, long_continuations = random_ids(window - 4, 0), random_ids(20, 1)
    requests = [Request(long_context, random_ids(5, length)) for length in (2, 3)]
    requests += [Request(long_continuations, random_ids(60, length)) for length in (4, 5)]
    for request, score in zip(requests, Scorer(model).score(requests), strict=True):
        assert score.logprobs.tolist() == pytest.approx(plain_score(model, request), abs=1e-4)


@pytest.mark.parametrize("words", [3, 60, 200])
def test_rolling_windows_score_every_token_once(tokenizer, words):
    text = " ".join(["the quick brown fox"] * words)
    ids = tokenizer.encode(text, add_bos=True)
    requests = rolling_requests(tokenizer, text, window=50)
    assert [token for request in requests for token in request.continuation] == ids
    assert requests[0].context == (tokenizer.bos_id,)
    assert all(len(request.context) + len(request.continuation) == 51 for request in requests[1:])


def test_context_and_continuation_are_encoded_together(tokenizer):
    (request,) = encode_pairs(tokenizer, [("the quick ", "brown fox")])
    assert [*request.context, *request.continuation] == tokenizer.encode("the quick brown fox", add_bos=True)
    assert list(request.context) == tokenizer.encode("the quick", add_bos=True)


def test_last_word_is_split_at_space_and_at_word():
    passage = LastWord("It certainly was some kind of\n\nPower")
    assert passage.at_space == ("It certainly was some kind", " of\n\nPower")
    assert passage.at_word == ("It certainly was some kind of", "\n\nPower")
    plain = LastWord("one two three")
    assert plain.at_space == plain.at_word == ("one two", " three")


def test_wikitext_is_scored_detokenized_but_counted_raw():
    page = Page(" The well @-@ known 1 @,@ 000 men ( and women ) came . \n")
    assert page.text.strip() == "The well-known 1,000 men (and women) came."
    assert page.num_bytes == len(page.raw)
    assert page.num_words == 16  # with the empty text before and after, as the harness counts


def test_wikitext_pages_begin_at_headings_of_the_first_level():
    text = " \n = One = \n a \n = = Part = = \n b \n = Two = \n c \n"
    assert [page.split("\n")[0] for page in wikitext_pages(text)] == [" = One = ", " = Two = "]


def test_chosen_items_are_spread_evenly_and_fixed():
    assert evenly_spaced(range(100), 4) == [0, 25, 50, 75]
    assert evenly_spaced(range(3), 5) == [0, 1, 2]


def test_standard_errors_match_resampling():
    generator = np.random.default_rng(0)
    words = generator.integers(50, 200, 400).astype(float)
    losses = words * generator.normal(4.0, 0.5, 400)
    figure = Figure(losses.tolist(), words.tolist(), "exp", higher_is_better=False)
    draws = generator.integers(0, 400, (2000, 400))
    resampled = np.exp(losses[draws].sum(1) / words[draws].sum(1))
    assert figure.value == pytest.approx(math.exp(losses.sum() / words.sum()))
    assert figure.stderr == pytest.approx(resampled.std(), rel=0.1)


def test_bleu_is_sacrebleu_s_corpus_score():
    from sacrebleu.metrics import BLEU

    from pipeline.evaluation.completion import bleu_figure

    written = ["the cat sat on the mat today", "a dog ran over the road", "nothing alike here at all"]
    references = ["the cat sat on a mat today", "the dog ran over the street", "quite something else was meant"]
    bleu = BLEU(effective_order=True)
    figure = bleu_figure([bleu.sentence_score(w, [r]) for w, r in zip(written, references, strict=True)])
    assert isinstance(figure, BleuFigure)
    assert figure.value == pytest.approx(BLEU().corpus_score(written, [references]).score)


def test_the_same_figures_are_never_a_significant_difference():
    figure = Figure([1.0, 0.0, 1.0, 1.0] * 10, is_yes_no=True)
    assert figure.p_value(figure) == 1.0
    losses = Figure([2.0, 3.0, 4.0], [1.0, 2.0, 3.0], "exp", higher_is_better=False)
    assert losses.p_value(losses) == pytest.approx(1.0)


def test_mcnemar_is_the_sign_test_on_disagreements():
    assert mcnemar([1] * 6 + [0], [0] * 6 + [0]) == pytest.approx(2 / 2**6)


def test_mcnemar_leaves_out_items_on_which_both_agree():
    mine, others = [1] * 9 + [0] * 3, [0] * 9 + [1] * 3
    assert mcnemar(mine + [1, 0] * 50, others + [1, 0] * 50) == mcnemar(mine, others)
    assert mcnemar(mine, others) == pytest.approx(2 * (1 + 12 + 66 + 220) / 2**12)


@pytest.mark.parametrize("count", [40, 400])
def test_with_equal_weights_ratios_are_compared_as_paired_means(count):
    generator = np.random.default_rng(0)
    base = generator.normal(3, 1, count)
    mine, others = (base + generator.normal(shift, 0.3, count) for shift in (0, 0.1))
    differences = mine - others
    error = differences.std(ddof=1) / math.sqrt(count)
    expected = math.erfc(abs(differences.mean()) / error / math.sqrt(2))
    weights = [2.0] * count
    p = Figure(mine.tolist(), weights, "exp").p_value(Figure(others.tolist(), weights, "exp"))
    assert p == pytest.approx(expected, rel=1e-6 if count > 200 else 0.15)


def test_best_is_marked_only_beyond_noise():
    generator = np.random.default_rng(0)
    base = generator.normal(3, 1, 300)
    better = Figure((base - 0.5 + generator.normal(0, 0.1, 300)).tolist(), higher_is_better=False)
    worse = Figure(base.tolist(), higher_is_better=False)
    same = Figure((base + generator.normal(0, 0.1, 300)).tolist(), higher_is_better=False)
    assert compare({"worse": worse, "better": better})["best"] == "better"
    assert compare({"worse": worse, "same": same})["best"] is None


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("lambada", "{", "line 2: not JSON"),
        ("lambada", '{"text":' * 100_000 + "1" + "}" * 100_000, "line 2: not JSON: depth limit exceeded"),
        ("lambada", '{"text": "word"}', "has no last word"),
        ("hellaswag", '{"activity_label": "a", "ctx_a": "b", "ctx_b": "c", "endings": ["x"], "label": 0}', "endings"),
        ("hellaswag", '{"activity_label": "a", "ctx_a": "b", "ctx_b": "c", "endings": ["x","y"], "label": 2}', "label"),
    ],
)
def test_malformed_data_is_named_with_its_line(tmp_path, name, line, message):
    good = {"lambada": '{"text": "one two"}', "hellaswag": line.replace('"label": 2', '"label": 1')}[name]
    (tmp_path / name).mkdir()
    (tmp_path / name / "set.jsonl").write_text(f"{good if name == 'lambada' else ''}\n{line}\n")
    with pytest.raises(PipelineError, match=message) as error:
        load_sets([name], data_dir=tmp_path, preset="full", offline_samples=False)
    assert "set.jsonl, line 2" in str(error.value)


def test_line_separator_in_a_passage_is_kept(tmp_path):
    (tmp_path / "lambada").mkdir()
    (tmp_path / "lambada" / "set.jsonl").write_text('{"text": "one\u2028two three"}\n', encoding="utf-8")
    [data] = load_sets(["lambada"], data_dir=tmp_path, preset="full", offline_samples=False)
    assert data.items[0].passage == "one\u2028two three"


def test_missing_and_empty_sets_are_named(tmp_path):
    with pytest.raises(PipelineError, match=r"does not contain wikitext/\*\.raw"):
        load_sets(["wikitext"], data_dir=tmp_path, preset="full", offline_samples=False)
    (tmp_path / "wikitext").mkdir()
    (tmp_path / "wikitext" / "wiki.test.raw").write_text(" \n")
    with pytest.raises(PipelineError, match=r"wiki\.test\.raw is empty"):
        load_sets(["wikitext"], data_dir=tmp_path, preset="full", offline_samples=False)


@pytest.mark.parametrize(
    ("name", "rows", "count"),
    [
        ("wikitext", ["= One =\n", "Text of one.\n", "= Two =\n", "Text of two.\n"], 2),
        ("lambada", ["the first passage", "and the second"], 2),
    ],
)
def test_sets_from_the_hub_are_read_as_files_are(monkeypatch, name, rows, count):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: [{"text": text} for text in rows])
    (found,) = load_sets([name], data_dir=None, preset="full", offline_samples=False)
    assert len(found.items) == count


def test_an_unreachable_hub_names_both_alternatives(monkeypatch):
    import datasets

    def refuse(*arguments, **options):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(PipelineError, match=r"no route.*--data-dir DIR.*--offline-samples"):
        load_sets(["lambada"], data_dir=None, preset="quick", offline_samples=False)


def test_real_sets_have_the_known_counts(real_data):
    sets = load_sets(["wikitext", "lambada", "hellaswag"], data_dir=real_data, preset="full", offline_samples=False)
    assert [len(benchmark.items) for benchmark in sets] == [60, 500, 500]
    quick = load_sets(["wikitext", "lambada", "hellaswag"], data_dir=real_data, preset="quick", offline_samples=False)
    assert [len(benchmark.items) for benchmark in quick] == [50, 20, 10]
    assert not any(benchmark.comparable for benchmark in quick)


def test_clean_requires_the_stamp_of_this_file(real_data):
    (wikitext,) = load_sets(["wikitext"], data_dir=real_data, preset="full", offline_samples=False)
    stamp = {"sets": [{"name": "wikitext", "files": wikitext.files}]}
    assert contamination({"data": {"decontamination": stamp}}, wikitext) == "clean"
    other = {"sets": [{"name": "wikitext", "files": {"wiki.valid.raw": "0" * 64}}]}
    assert contamination({"data": {"decontamination": other}}, wikitext) == "not checked"
    assert contamination({}, wikitext) == "not checked"
    trained_on_wikipedia = {"config": {"dataset": {"source": "wikipedia"}}}
    assert contamination(trained_on_wikipedia, wikitext).startswith("contaminated")


def test_contamination_names_training_that_was_not_checked():
    (wikitext,) = load_sets(["wikitext"], data_dir=None, preset="full", offline_samples=True)
    data = {"decontamination": {"sets": [{"name": "wikitext", "files": wikitext.files}]}}
    tuned = {"chat_template": "user-assistant", "data": {"fingerprint": "f0"}, "base": {"data": data}}
    assert contamination(tuned, wikitext) == "pretraining data clean, conversations not checked"
    assert contamination({**tuned, "data": data}, wikitext) == "clean"
    started = {"data": data, "init_from": "checkpoint_latest.pt"}
    assert contamination(started, wikitext) == "pretraining data clean, training before --init-from not checked"
    twice = {"chat_template": "user-assistant", "base": {"data": {"training_conversations": 9, "directory": "/"}}}
    assert contamination(twice, wikitext) == "not checked"


@pytest.fixture(scope="module")
def results(checkpoints, tmp_path_factory) -> dict:
    config = load_config(settings=[f"paths.benchmark_dir={tmp_path_factory.mktemp('results')}"])
    models = {
        name: load_for_inference(str(checkpoints / f"checkpoint_{name}.pt"), config) for name in ("step_10", "latest")
    }
    chosen = ModelBenchmark(config, preset="quick", offline_samples=True)
    return chosen.run_full_benchmark({name: (model.model, model.tokenizer) for name, model in models.items()})


def test_results_are_repeatable_plain_values(results, checkpoints, tmp_path):
    config = load_config(settings=[f"paths.benchmark_dir={tmp_path}"])
    again = load_for_inference(str(checkpoints), config)
    chosen = ModelBenchmark(config, preset="quick", offline_samples=True)
    repeated = chosen.run_full_benchmark({"latest": (again.model, again.tokenizer)})
    assert repeated["models"]["latest"]["figures"] == results["models"]["latest"]["figures"]
    assert json.loads(json.dumps(results)) == results


def test_an_offline_sample_is_called_not_comparable_once(results):
    for report in (format_benchmark_results(results), benchmark_page(results)):
        assert report.count("not comparable with published scores") == 1
        assert NOT_COMPARABLE not in report
    assert next(iter(results["models"]["latest"]["figures"]["wikitext"])) == "bits_per_byte"


def test_command_writes_four_reports(checkpoints, tmp_path, capsys):
    arguments = ["--checkpoint", f"a={checkpoints}", "--checkpoint", f"b={checkpoints}/checkpoint_step_10.pt"]
    options = [
        "--offline-samples",
        "--quick",
        "--tasks",
        "lambada,hellaswag",
        "--set",
        f"paths.benchmark_dir={tmp_path}",
    ]
    assert benchmark.main([*arguments, *options, "--device", "cpu"]) == 0
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".html", ".json", ".png", ".txt"]
    page = next(tmp_path.glob("*.html")).read_text()
    assert "<svg" in page
    assert "http" not in page  # self-contained
    printed = capsys.readouterr().out
    assert "Ranking" in printed
    assert f"{next(tmp_path.glob('*.txt'))}, .json, .png, .html" in printed
    models = json.loads(next(tmp_path.glob("*.json")).read_text())["models"]
    assert Path(models["b"]["checkpoint"]) == (checkpoints / "checkpoint_step_10.pt").resolve()


QUICK = ["--offline-samples", "--quick", "--device", "cpu"]


@pytest.fixture(scope="module")
def workshop(tokenizer, tmp_path_factory) -> tuple[Path, list[str]]:
    """A folder with a base run and one fine-tuned from it, and the settings that name it."""
    folder = tmp_path_factory.mktemp("tuned")
    small_checkpoint(folder / "checkpoints/run_2026_01_01_00_00/checkpoint_latest.pt", tokenizer, weight_scale=1.0)
    lines = [json.dumps({"conversations": [f"the fox {number}?", "a lazy dog"]}) for number in range(12)]
    (folder / "chats.jsonl").write_text("\n".join(lines), encoding="utf-8")
    places = {"checkpoint": "checkpoints", "log": "logs", "post_training": "data"}
    values = [f"paths.{key}_dir={folder / name}" for key, name in places.items()]
    values += [f"paths.tokenizer_dir={tokenizer.directory}", "sft.sample_prompts=[]"]
    settings = [part for value in values for part in ("--set", value)]
    assert lima_tokenizer.main(["--input", str(folder / "chats.jsonl"), "--max-length", "96", *settings]) == 0
    options = ["--device", "cpu", "--epochs", "2", "--batch-size", "4"]
    assert post_training.main(["--checkpoint", "latest", *options, *settings]) == 0
    return folder, settings


def test_a_fine_tuned_run_is_compared_with_its_base(workshop, tmp_path, capsys):
    _, settings = workshop
    models = ["--checkpoint", "tuned=latest", "--checkpoint", "base=run_2026_01_01_00_00"]
    place = ["--set", f"paths.benchmark_dir={tmp_path}"]
    assert benchmark.main([*models, *QUICK, *settings, *place, "--tasks", "lambada,wikitext"]) == 0
    assert "warning" not in capsys.readouterr().err
    report = json.loads(next(tmp_path.glob("*.json")).read_text())
    tuned = report["models"]["tuned"]
    assert tuned["contamination"]["lambada"] == "not checked"
    assert tuned["contamination"]["wikitext"].startswith("contaminated: trained on Wikipedia")
    assert tuned["speed"]


def test_over_training_scores_each_epoch_of_fine_tuning(workshop, tmp_path):
    _, settings = workshop
    place = ["--set", f"paths.benchmark_dir={tmp_path}", "--tasks", "lambada"]
    assert benchmark.main(["--over-training", "latest", *QUICK, *settings, *place]) == 0
    assert len(json.loads(next(tmp_path.glob("*.json")).read_text())["models"]) == 2


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        ("contamination.contamination", "latest: contamination"),
        ("speed.measure_speed", "latest: speed"),
        ("speed.write_sample", "latest: sample"),
        ("charts.comparison_chart", "the chart"),
        ("html_report.benchmark_page", "the page"),
    ],
)
def test_a_failing_optional_part_keeps_the_results(checkpoints, tmp_path, capsys, monkeypatch, broken, what):
    def fail(*arguments, **options):
        raise ValueError("no\nluck")

    monkeypatch.setattr(f"pipeline.evaluation.{broken}", fail)
    config = load_config(settings=[f"paths.benchmark_dir={tmp_path}"])
    loaded = load_for_inference(str(checkpoints), config)
    chosen = ModelBenchmark(config, preset="quick", tasks=["lambada"], offline_samples=True)
    results = chosen.run_full_benchmark({"latest": (loaded.model, loaded.tokenizer)})
    error = capsys.readouterr().err
    assert f"warning: {what} failed: no luck; the scores are not affected\n" in error
    assert json.loads(next(tmp_path.glob("*.json")).read_text()) == results
    assert next(tmp_path.glob("*.txt")).read_text() == format_benchmark_results(results)


def test_results_are_on_disk_before_anything_optional(checkpoints, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.evaluation.contamination.contamination", interrupt)
    config = load_config(settings=[f"paths.benchmark_dir={tmp_path}"])
    loaded = load_for_inference(str(checkpoints), config)
    chosen = ModelBenchmark(config, preset="quick", tasks=["lambada"], offline_samples=True)
    with pytest.raises(KeyboardInterrupt):
        chosen.run_full_benchmark({"latest": (loaded.model, loaded.tokenizer)})
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".txt"]


def test_two_benchmarks_in_a_second_keep_both_reports(tmp_path, results):
    for _ in range(2):
        ReportFiles(tmp_path).save(results)
    assert len(list(tmp_path.glob("*.json"))) == len(list(tmp_path.glob("*.txt"))) == 2


def test_a_model_given_twice_shares_its_rank(checkpoints, tmp_path):
    config = load_config(settings=[f"paths.benchmark_dir={tmp_path}"])
    loaded = load_for_inference(str(checkpoints), config)
    pair = (loaded.model, loaded.tokenizer)
    chosen = ModelBenchmark(config, preset="quick", offline_samples=True, tasks=("lambada", "wikitext"))
    results = chosen.run_full_benchmark({"a": pair, "b": pair})
    assert results["ranking"] == [{"place": 1, "model": name, "mean_rank": 1.5} for name in ("a", "b")]
    assert "  1. a  1.50\n  1. b  1.50" in format_benchmark_results(results)


def test_equal_figures_share_the_mean_of_their_ranks():
    assert mean_ranks([9.0, 7.0, 7.0, 5.0]) == [1, 2.5, 2.5, 4]
    assert mean_ranks([3.0, 3.0, 3.0]) == [2, 2, 2]


def test_zero_model_scores_at_chance(checkpoints, tokenizer):
    loaded = load_for_inference(str(checkpoints), load_config(), device="cpu")
    for parameter in loaded.model.parameters():
        torch.nn.init.zeros_(parameter)
    endings = tuple(f"the {word}" for word in ("fox", "dog", "fox", "dog"))
    choices = [Choice("a quick brown", endings, label) for label in range(4)]
    words = [LastWord("the quick brown fox"), LastWord("over a lazy dog")]
    pages = [Page("the quick brown fox jumps over the lazy dog . ")]
    sets = {"hellaswag": choices, "lambada": words, "wikitext": pages}
    scored = {name: TASKS[name].score(Scorer(loaded.model), tokenizer, items).figures for name, items in sets.items()}
    assert scored["hellaswag"]["acc"].x == scored["hellaswag"]["acc_norm"].x == [0.25] * 4
    assert scored["hellaswag"]["acc_above_chance"].value == scored["hellaswag"]["acc_norm_above_chance"].value == 0
    assert scored["lambada"]["acc"].value <= 1 / tokenizer.vocab_size
    assert scored["wikitext"]["next_token_top10"].value == pytest.approx(10 / tokenizer.vocab_size)


def test_ties_count_as_chance():
    assert chance_of_best(np.array([-1.0, -2.0, -1.0]), 0) == 0.5
    assert chance_of_best(np.array([-1.0, -2.0, -1.0]), 1) == 0
    tied = Score(np.zeros(3), ranks=np.array([0, 4, 10]), tied=np.array([2, 3, 5]))
    assert tied.top_chance(1).tolist() == [0.5, 0, 0]
    assert tied.top_chance(5) == pytest.approx([1, 1 / 3, 0])


def test_unusual_line_separators_do_not_end_lines(tmp_path):
    (tmp_path / "lambada").mkdir()
    text = {"text": "one\u2028two\u0085three four"}
    (tmp_path / "lambada" / "set.jsonl").write_text(json.dumps(text, ensure_ascii=False) + "\n", encoding="utf-8")
    (tmp_path / "wikitext").mkdir()
    (tmp_path / "wikitext" / "wiki.test.raw").write_bytes("one\rtwo\u2028three\n".encode())
    sets = load_sets(["lambada", "wikitext"], data_dir=tmp_path, preset="quick", offline_samples=False)
    assert [data.items for data in sets] == [[LastWord(text["text"])], [Page("one\rtwo\u2028three")]]


def test_over_training_scores_every_checkpoint_of_a_run(checkpoints, tmp_path):
    options = ["--offline-samples", "--quick", "--tasks", "lambada", "--set", f"paths.benchmark_dir={tmp_path}"]
    assert benchmark.main(["--over-training", str(checkpoints), *options]) == 0
    report = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert {name: result["step"] for name, result in report["models"].items()} == {"step_10": 10, "latest": 12}


def test_over_training_orders_epochs_among_steps(checkpoints, tmp_path):
    folder = tmp_path / "sft_lima_2026_01_01_10_00"
    folder.mkdir()
    content = torch.load(checkpoints / "checkpoint_step_10.pt", weights_only=True)
    for name, step in (("step_10", 10), ("epoch_2", 40), ("epoch_1", 20)):
        torch.save(content | {"step": step}, folder / f"checkpoint_{name}.pt")
    options = ["--offline-samples", "--quick", "--tasks", "lambada", "--set", f"paths.benchmark_dir={tmp_path}"]
    assert benchmark.main(["--over-training", str(folder), *options]) == 0
    report = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert list(report["models"]) == ["step_10", "epoch_1", "epoch_2"]


def test_a_tokenizer_that_does_not_fit_is_refused(model, tokenizer, tmp_path):
    other = trained_tokenizer(tmp_path / "other" / "tokenizer", vocab_size=320)
    chosen = ModelBenchmark(load_config(), preset="quick", offline_samples=True)
    with pytest.raises(PipelineError, match="the tokenizer has 320 tokens, but the model has 340"):
        chosen.run_full_benchmark({"m": (model, other)})
