"""What the doctor says about a machine, word for word, and the limits at which it changes its mind."""

import json
import platform
import re
import sys
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest

from pipeline.configuration import Config, load_config
from pipeline.doctor import accelerator, checkup, disk, machine, packages, route
from pipeline.doctor.accelerator import Gpu, check_accelerator, gpu_problems, lower, memory_needed
from pipeline.doctor.disk import Need, check_disk
from pipeline.doctor.findings import Finding, note, ok, problem, report
from pipeline.doctor.gpu import command as gpu_command
from pipeline.doctor.gpu.check import Plan, Result, _environment, has_failed, progress, run_step, table
from pipeline.doctor.gpu.steps import Step
from pipeline.doctor.gpu.trial import Row
from pipeline.doctor.machine import check_memory, check_processor, read_memory, read_processor
from pipeline.doctor.packages import in_range, shortened
from pipeline.training.config import TrainingConfig
from utils.errors import PipelineError

GIB = 1 << 30
A100 = Gpu("NVIDIA A100", "525.60", 40 * GIB, 30 * GIB, 8.0)
BUILT_FOR_12 = "12.8"


@cache
def config_with(*settings: str) -> Config:
    return load_config(settings=settings)


def statuses(findings: list[Finding]) -> list[str]:
    return [finding.status for finding in findings]


def test_a_gpu_is_described_by_size_driver_and_abilities(monkeypatch):
    monkeypatch.setattr(accelerator, "find_gpus", lambda: [A100])
    (finding,) = check_accelerator(config_with("training.device=cpu"))
    assert finding.found == ("not needed: training.device is cpu; NVIDIA A100 is not used: --set training.device=cuda")
    assert A100.describe() == ("NVIDIA A100, 40.0 GB, 30.0 GB free, driver 525.60, bfloat16 and flash attention")
    assert "neither bfloat16 nor flash attention" in replace(A100, capability=7.9).describe()


def test_a_line_of_nvidia_smi_is_in_mebibytes():
    gpu = accelerator._parse("NVIDIA A100, 525.60, 40960, 30720, 8.0")
    assert gpu == A100
    assert accelerator._parse("No devices were found") is None


def test_a_driver_without_its_program_is_a_note(monkeypatch, tmp_path):
    driver = tmp_path / "version"
    driver.touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(accelerator, "DRIVER", driver)
    (finding,) = check_accelerator(config_with())
    assert (finding.status, finding.remedy) == ("note", "run: python3 main.py doctor --gpu")
    driver.unlink()
    (finding,) = check_accelerator(config_with())
    assert (finding.status, finding.found) == (
        "problem",
        "training.device is cuda, but no NVIDIA driver is installed (nvidia-smi)",
    )


def test_a_program_that_lists_no_gpu_means_a_broken_driver(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nexit 9\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = check_accelerator(config_with())
    assert "nvidia-smi lists no GPU" in finding.found


@pytest.mark.parametrize(
    ("system", "processor", "status"),
    [("Darwin", "arm64", "ok"), ("Darwin", "x86_64", "problem"), ("Linux", "arm64", "problem")],
)
def test_mps_needs_an_apple_gpu(monkeypatch, system, processor, status):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: processor)
    assert statuses(check_accelerator(config_with("training.device=mps"))) == [status]


@pytest.mark.parametrize(
    ("driver", "cuda", "is_too_old"),
    [("525.60", "12.8", False), ("525.59", "12.8", True), ("580.65", "13.0", False), ("580.64", "13.0", True),
     ("450.80", "11.8", False), ("450.79", "11.8", True), ("1.0", "14.0", False), ("unknown", "12.8", False)],
)  # fmt: skip
def test_drivers_are_compared_with_nvidias_table(driver, cuda, is_too_old):
    found = accelerator._driver_problem(replace(A100, driver=driver), cuda)
    assert bool(found) == is_too_old


@pytest.mark.parametrize(("share", "free", "expected"), [(1.0, 1.0, []), (0.92, 1.0, []), (0.9, 1.0, ["problem"])])
def test_a_step_may_need_slightly_more_than_the_gpu_has(share, free, expected):
    needed = memory_needed(config_with())
    gpu = replace(A100, memory=int(needed * share), free=needed)
    assert statuses(gpu_problems(gpu, config_with(), cuda=BUILT_FOR_12)) == expected
    assert statuses(gpu_problems(replace(gpu, memory=2 * needed, free=needed - 1), config_with(), cuda="12.8")) == [
        "note"
    ]


def test_the_compute_type_decides_the_memory():
    on_gpu = memory_needed(config_with())
    assert memory_needed(config_with("training.dtype=bfloat16")) == on_gpu
    in_float32 = memory_needed(config_with("training.dtype=float32"))
    assert in_float32 > on_gpu
    assert memory_needed(config_with("training.device=cpu")) == in_float32
    assert memory_needed(config_with("training.device=cpu", "training.dtype=bfloat16")) == on_gpu


@pytest.mark.parametrize(("rows", "steps", "advice"), [(9, 3, (4, 6)), (1, 1, (1, 2))])
def test_a_smaller_batch_keeps_the_size_of_the_step(rows, steps, advice):
    config = config_with(f"training.batch_size={rows}", f"training.gradient_accumulation_steps={steps}")
    assert lower(config) == (
        f"--set training.batch_size={advice[0]} --set training.gradient_accumulation_steps={advice[1]}"
    )


@pytest.mark.parametrize(
    ("capability", "dtype", "attention", "remedies"),
    [
        (8.0, "bfloat16", "flash", []),
        (7.5, "auto", "any", []),
        (7.5, "bfloat16", "flash", ["--set training.dtype=float32", "--set training.attention=any"]),
        (8.0, "float32", "any", []),
        (8.0, "float32", "flash", ["--set training.attention=any, or --set training.dtype=bfloat16"]),
    ],
)
def test_kernels_need_an_ampere_gpu(capability, dtype, attention, remedies):
    training = replace(TrainingConfig(), dtype=dtype, attention=attention)
    found = accelerator._kernel_problems(replace(A100, capability=capability), training)
    assert [finding.remedy for finding in found] == remedies


def test_set_values_of_the_configuration_are_counted():
    (finding,) = checkup.check_configuration(config_with())
    assert finding.found == "24.9M parameters, windows of 512 tokens, wikipedia on cuda; all defaults"
    (finding,) = checkup.check_configuration(config_with("training.device=cpu"))
    assert finding.found.endswith("on cpu; 1 values set")


@pytest.mark.parametrize(("version", "is_old"), [((3, 10, 9), True), ((3, 11, 0), False), ((3, 13, 1), False)])
def test_python_is_old_below_3_11(version, is_old):
    assert statuses(packages.check_python(version)) == ["problem" if is_old else "ok"]


@pytest.mark.parametrize(
    ("version", "bounds", "expected"),
    [
        ("2.11", ">=2.11,<3", True), ("2.10.9", ">=2.11,<3", False), ("2.99", ">=2.11,<3", True),
        ("3", ">=2.11,<3", False), ("3.0", ">=2.11,<3", False), ("9", "", True), ("1.0", ">=1.0", True),
    ],
)  # fmt: skip
def test_a_range_includes_its_start_but_not_its_end(version, bounds, expected):
    assert in_range(version, bounds) == expected


def test_only_the_first_four_names_are_listed():
    assert shortened(["a", "b", "c", "d"]) == "a, b, c, d"
    assert shortened(["a", "b", "c", "d", "e", "f"]) == "a, b, c, d and 2 others"


def test_missing_packages_name_those_for_training_first(monkeypatch, tmp_path):
    pins, ranges = tmp_path / "requirements.txt", tmp_path / "pyproject.toml"
    pins.write_text("fastapi==1.0\ntorch==2.0\nnumpy==3.0  # arrays\n")
    ranges.write_text('dependencies = ["torch>=2,<3"]\n')
    monkeypatch.setattr(packages, "version_of", lambda name: None)
    (finding,) = packages.check_packages(pins, ranges)
    assert finding.status == "problem"
    assert finding.found.startswith("torch 2.0, numpy 3.0, fastapi 1.0 are not installed for ")
    monkeypatch.setattr(packages, "version_of", lambda name: {"torch": "2.0", "numpy": "3.0"}.get(name))
    (finding,) = packages.check_packages(pins, ranges)
    assert (finding.status, finding.found) == (
        "note",
        "fastapi 1.0 is not installed; needed to benchmark, serve or export",
    )


def test_the_advice_names_the_python_that_has_the_packages(monkeypatch, tmp_path):
    monkeypatch.setattr(packages, "CHECKOUT", tmp_path)
    assert packages.install_command() == "run: make install"
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert packages.install_command() == "run: make install, then: .venv/bin/python doctor.py"
    monkeypatch.setattr(packages.sys, "prefix", str(tmp_path / ".venv"))
    assert packages.install_command() == "run: make install"


@pytest.mark.parametrize(("line", "cuda"), [("cuda: str | None = '12.8'", "12.8"), ("cuda = None", None)])
def test_the_cuda_of_torch_is_read_from_its_version_file(monkeypatch, tmp_path, line, cuda):
    (tmp_path / "__init__.py").touch()
    (tmp_path / "version.py").write_text(f"__version__ = '2.13.0'\n{line}\n")
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})()
    monkeypatch.setattr(packages, "find_spec", lambda name: spec)
    monkeypatch.setattr(packages, "version_of", lambda name: "2.13.0")
    assert packages.torch_cuda() == cuda
    (finding,) = packages.check_torch()
    assert finding.found == f"2.13.0, built {f'for CUDA {cuda}' if cuda else 'without CUDA'}"
    (tmp_path / "version.py").unlink()
    assert packages.torch_cuda() is None


@pytest.mark.parametrize(
    ("total", "available", "status"),
    [(1.0, 1.0, "ok"), (1.0, 0.9, "note"), (0.95, 0.95, "note"), (0.85, 0.85, "problem")],
)
def test_memory_on_the_cpu_is_total_and_free(monkeypatch, total, available, status):
    config = config_with("training.device=cpu")
    needed = memory_needed(config)
    sizes = {"MemTotal": int(total * needed), "MemAvailable": int(available * needed)}
    monkeypatch.setattr(machine, "read_memory", lambda information: sizes)
    assert statuses(check_memory(config)) == [status]
    assert statuses(check_memory(config_with())) == ["ok"]


def test_unknown_memory_is_said(tmp_path):
    assert check_memory(config_with(), information=tmp_path / "none") == [
        ok("memory", "its size is unknown on this system")
    ]
    (tmp_path / "meminfo").write_text("MemTotal: 3 kB\nHugePages_Total: 7\n")
    assert read_memory(tmp_path / "meminfo") == {"MemTotal": 3072}


def test_an_arm_processor_is_known_by_its_features(tmp_path, monkeypatch):
    information = tmp_path / "cpuinfo"
    information.write_text("model name : Arm\nFeatures : fp asimd bf16\n")
    assert read_processor(information) == ("Arm", ["NEON", "ARM bf16"])
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    on_cpu = config_with("training.device=cpu", "training.dtype=bfloat16")
    (finding, slow) = check_processor(on_cpu, information=information)
    assert "without bfloat16" not in finding.found
    assert slow.found == "PyTorch is several times slower without AVX2"
    assert statuses(check_processor(config_with(), information=information)) == ["ok"]
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert statuses(check_processor(on_cpu, information=information)) == ["ok"]


@pytest.mark.parametrize(("spare", "status"), [(1.06, "ok"), (1.04, "problem")])
def test_a_disk_needs_a_twentieth_more_than_its_files(monkeypatch, tmp_path, spare, status):
    needs = [Need("3 checkpoints", tmp_path, 2 * GIB), Need("the token dataset", tmp_path, GIB)]
    monkeypatch.setattr(disk, "checkpoint_needs", lambda config: needs[:1])
    monkeypatch.setattr(disk, "dataset_needs", lambda config: needs[1:])
    monkeypatch.setattr(disk, "free_disk", lambda folder: spare * 3 * GIB)
    (finding,) = check_disk(config_with())
    assert finding.status == status
    assert finding.found.endswith("GB free; 3 checkpoints about 2.0 GB and the token dataset about 1.0 GB")
    assert ("paths.data_dir" in finding.remedy) == (status == "problem")
    monkeypatch.setattr(disk, "dataset_needs", lambda config: [])
    monkeypatch.setattr(disk, "free_disk", lambda folder: 0)
    assert "--set paths.checkpoint_dir=DIR" in check_disk(config_with())[0].remedy


def test_the_run_needs_its_checkpoints_and_its_tokens(tmp_path):
    cleaned = tmp_path / "cleaned"
    cleaned.mkdir()
    (cleaned / "cleaned_a.txt").write_text("x" * 4_000)
    places = (f"paths.cleaned_dir={cleaned}", f"dataset.custom_dir={tmp_path / 'data'}")
    config = config_with("dataset.source=custom", *places, "training.keep_last=3")
    (checkpoints,) = disk.checkpoint_needs(config)
    assert (checkpoints.what, checkpoints.size) == ("5 checkpoints", 5 * 12 * 24_883_584)
    assert [need.size for need in disk.dataset_needs(config)] == [2_000]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "metadata.json").touch()
    assert disk.dataset_needs(config) == []


@pytest.mark.parametrize(("names", "text"), [(["a"], "1 in one run"), (["a", "b"], "2 in 2 runs")])
def test_complete_checkpoints_are_counted(tmp_path, monkeypatch, names, text):
    run = type("Run", (), {})
    runs = []
    for name in names:
        path = tmp_path / name
        path.write_bytes(b"x" * 1024)
        runs.append(run())
        runs[-1].checkpoints = [path]
    monkeypatch.setattr(route, "list_runs", lambda folder: runs)
    monkeypatch.setattr(route, "_is_whole", lambda path: True)
    (finding,) = route.check_checkpoints(config_with())
    size = f"{len(names)}.0 KB"
    assert finding.found == f"{text}, complete; a full check reads {size} and happens whenever a stage loads one"


def test_raw_files_come_before_preparation(tmp_path):
    raw = tmp_path / "raw"
    config = config_with(
        f"paths.raw_dir={raw}", f"paths.cleaned_dir={tmp_path / 'no'}", f"dataset.custom_dir={tmp_path}"
    )
    assert statuses(route.check_datasets(config)) == ["problem"]
    raw.mkdir()
    (raw / "book.txt").write_text("text")
    (finding,) = route.check_datasets(config)
    assert finding.remedy == "run: python3 main.py cleanup, then: python3 main.py prepare"
    fineweb = config_with("dataset.source=fineweb", f"paths.data_dir={tmp_path}")
    assert route.check_datasets(fineweb)[0].remedy == "run: python3 main.py fineweb"


def test_conversations_are_tokenized_or_the_command_is_named(tmp_path):
    config = config_with(f"paths.post_training_dir={tmp_path}")
    (finding,) = route.check_conversations(config)
    assert (finding.status, finding.remedy) == ("note", "run: python3 main.py lima")
    (tmp_path / "metadata.json").write_text(json.dumps({}))
    assert statuses(route.check_conversations(config)) == ["ok"]


@pytest.mark.parametrize(
    ("problems", "verdict"),
    [(0, "the configured route can run"), (1, "the configured route cannot run yet: 1 problem"), (2, "2 problems")],
)
def test_the_report_ends_with_a_verdict(problems, verdict):
    findings = [note("hub", "offline"), *[problem("gpu", "none", "buy one")] * problems]
    lines = report(findings).splitlines()
    assert lines[0] == "note  hub           offline"
    assert lines[1:-2] == ["FAIL  gpu           none; buy one"] * problems
    assert lines[-1].endswith(verdict)


def test_the_report_is_indented_in_a_narrow_terminal():
    lines = report([ok("disk", "word " * 20)], width=10).splitlines()
    assert lines[1] == " " * 20 + "word word word word word word"


def test_the_gpu_table_is_grouped_with_a_verdict_for_each_row():
    results = [
        Result("speed-25m", "speed", [Row("25M", "9 tokens/s", "", "measured")], 4.0),
        Result("flash", "correctness", [Row("flash", "1", "0", "fail"), Row("heads", "0", "0", "pass")], 61.0),
    ]
    assert table(results).splitlines() == [
        "step                         found                  expected          verdict",
        "",
        "correctness",
        "flash                        1                      0                 fail",
        "heads                        0                      0                 pass",
        "",
        "speed",
        "25M                          9 tokens/s                               measured",
        "",
        "1 measured, 1 fail, 1 pass; 1m 05s",
    ]
    assert progress(2, 10, results[1]) == " 2/10 flash: fail, pass, 1m 01s"
    assert has_failed(results)
    assert not has_failed(results[:1])


def test_the_gpu_report_says_if_it_is_a_rehearsal(tmp_path):
    results = [Result("flash", "correctness", [Row("flash", "0", "0", "pass")], 1.0)]
    path = gpu_command.report_path(tmp_path, rehearse=False)
    assert re.fullmatch(r"gpu_check_\d{4}(_\d\d){5}\.json", path.name)
    assert gpu_command.report_path(tmp_path, rehearse=True).name.startswith("gpu_rehearsal_")
    last = f"report, to attach to an issue: {path}"
    assert gpu_command.report(results, Plan("cuda"), path).splitlines()[-1] == last
    assert "says nothing about a GPU" in gpu_command.report(results, Plan("cpu", rehearse=True), path)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("import time; print('begun', flush=True); time.sleep(60)", "no result within 0.2s"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("import sys; print(*range(50), sep='\\n'); sys.exit(3)", "exit 3 without a result"),
    ],
)
def test_a_step_without_a_result_is_an_error(tmp_path, script, found):
    plan = Plan("cpu", starter=(sys.executable, "-c", script))
    result = run_step(Step("flash", "correctness", seconds=0.2 if "sleep" in script else 60.0), plan, tmp_path)
    assert [(row.what, row.found, row.verdict) for row in result.rows] == [("flash", found, "error")]
    assert len(result.log.splitlines()) == (40 if "range" in script else result.log.count("\n") + bool(result.log))
    assert result.has_failed


def test_compiled_code_is_shared_except_where_compiling_is_timed(tmp_path):
    plan = Plan("cuda")
    caches = [
        _environment(Step(name, group), plan, tmp_path)["TORCHINDUCTOR_CACHE_DIR"]
        for name, group in (("flash", "correctness"), ("compiled", "training"), ("speed-25m", "speed"))
    ]
    assert caches == [str(tmp_path / "compiled")] * 2 + [str(tmp_path / "compiled_speed-25m")]
    rehearsal = _environment(Step("flash", "correctness"), replace(plan, rehearse=True), tmp_path)
    assert rehearsal["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("cuda", "has_gpus", "torch_finds_one", "reason"),
    [(None, True, True, "built without CUDA"), ("12.8", False, False, "finds no NVIDIA GPU"), ("12.8", True, False, ""),
     ("12.8", False, True, "")],
)  # fmt: skip
def test_the_gpu_check_needs_a_gpu_that_torch_can_use(monkeypatch, cuda, has_gpus, torch_finds_one, reason):
    monkeypatch.setattr(gpu_command, "torch_cuda", lambda: cuda)
    monkeypatch.setattr(gpu_command, "find_gpus", lambda: [A100] * has_gpus)
    finished = SimpleNamespace(returncode=0 if torch_finds_one else 1)
    monkeypatch.setattr(gpu_command.subprocess, "run", lambda command, **options: finished)
    if reason:
        with pytest.raises(PipelineError, match=rf"{reason}; with one, 7 steps would"):
            gpu_command.refuse_without_gpu(7)
    else:
        gpu_command.refuse_without_gpu(7)


@pytest.mark.parametrize("has_other", [True, False])
def test_samples_need_the_tokenizer_that_made_the_dataset(tmp_path, monkeypatch, has_other):
    tokenizer = SimpleNamespace(vocab_size=32_016, name="toy", fingerprint="a")
    monkeypatch.setattr("pipeline.tokenization.wikipedia_tokenizer.load_tokenizer", lambda directory: tokenizer)
    for name, fingerprint in (("train", "b" if has_other else "a"), ("test", "a" if has_other else "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metadata.json").write_text(json.dumps({"tokenizer": {"fingerprint": fingerprint}}))
    (tmp_path / "tokenizer.json").touch()
    monkeypatch.setattr(
        "pipeline.preparation.config.DatasetConfig.directory",
        lambda self, *, test, source=None: tmp_path / ("test" if test else "train"),
    )
    config = config_with(f"paths.tokenizer_dir={tmp_path}", "model.vocab_size=32016")
    assert statuses(route.check_tokenizer(config)) == (["ok", "note"] if has_other else ["ok"])
