"""The doctor: its findings on machines with problems, and that it is fast and works without packages."""

import json
import socket
import subprocess
import sys
import threading
import venv
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import doctor
from pipeline.configuration import CHECKOUT, Config, load_config
from pipeline.doctor import accelerator, disk, hub, packages
from pipeline.doctor.accelerator import Gpu, check_accelerator, gpu_problems
from pipeline.doctor.checkup import examine
from pipeline.doctor.findings import Finding, can_run, ok, report
from pipeline.doctor.hub import Answer, ask_hub, check_hub, judge
from pipeline.doctor.machine import check_compiler, check_memory, check_processor
from pipeline.doctor.route import check_checkpoints, check_datasets, check_tokenizer
from pipeline.doctor.server_port import check_port
from pipeline.web.listening import listen
from tests.small_models import small_checkpoint, trained_tokenizer

H100 = Gpu("NVIDIA H100 80GB HBM3", "580.95.05", 80 << 30, 79 << 30, 9.0)
V100 = Gpu("Tesla V100-SXM2-16GB", "535.10", 16 << 30, 15 << 30, 7.0)


def test_a_missing_tracker_is_a_problem_only_if_configured(monkeypatch):
    monkeypatch.setattr(packages, "version_of", lambda name: None)
    assert packages.check_tracker(load_config()) == []
    (finding,) = packages.check_tracker(load_config(settings=["training.tracker=trackio"]))
    assert finding.status == "problem"
    assert "-m pip install trackio" in finding.remedy


@pytest.fixture
def ready(project, monkeypatch) -> Path:
    """A folder with everything needed for training on the CPU, without a network."""
    tokenizer = trained_tokenizer(project / "tokenizer")
    path = project / "data" / "metadata.json"
    made_by = {"name": "toy", "fingerprint": tokenizer.fingerprint, "bos_id": 1, "eos_id": 2}
    content = json.loads(path.read_text()) | {"vocab_size": tokenizer.vocab_size, "tokenizer": made_by}
    path.write_text(json.dumps(content))
    config = json.loads((project / "config.json").read_text())
    config["model"]["vocab_size"] = tokenizer.vocab_size
    config["paths"]["tokenizer_dir"] = "tokenizer"
    (project / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return project


def config_of(folder: Path, *settings: str) -> Config:
    return load_config(folder / "config.json", settings=settings)


def problems(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.status == "problem"]


def only(findings: list[Finding], status: str) -> Finding:
    (finding,) = [finding for finding in findings if finding.status == status]
    return finding


def test_a_machine_that_can_run_the_route_exits_with_0(ready, capsys):
    assert doctor.main(["--config", str(ready / "config.json")]) == 0
    assert "the configured route can run" in capsys.readouterr().out


def test_missing_gpu_exits_with_1_and_suggests_a_setting(ready, monkeypatch, capsys):
    monkeypatch.setattr(accelerator, "find_gpus", list)
    assert doctor.main(["--config", str(ready / "config.json"), "--set", "training.device=cuda"]) == 1
    assert "--set training.device=cpu" in capsys.readouterr().out


def test_json_holds_every_finding(ready, capsys):
    assert doctor.main(["--config", str(ready / "config.json"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["can_run"] is True
    assert {"python", "packages", "torch", "dataset", "port"} <= {finding["topic"] for finding in content["findings"]}


def test_nothing_is_written_and_torch_is_not_imported(ready):
    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in ready.rglob("*")}

    before = files()
    script = f"import sys, doctor; code = doctor.main(['--config', {str(ready / 'config.json')!r}]); "
    script += "sys.exit(code or 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert files() == before


def test_python_without_packages_gets_install_instructions(tmp_path):
    venv.create(tmp_path / "bare", with_pip=False)
    command = [str(tmp_path / "bare" / "bin" / "python"), str(CHECKOUT / "doctor.py")]
    result = subprocess.run(command, capture_output=True, text=True, env={"HF_HUB_OFFLINE": "1"}, timeout=60)
    assert result.returncode == 1
    assert "torch" in result.stdout
    assert "make install" in result.stdout
    assert result.stderr == ""


def test_a_check_that_does_not_answer_is_a_note():
    silent = threading.Event()

    def wait(config: Config) -> list[Finding]:
        silent.wait()
        return []

    findings = examine(
        load_config(), checks=[("hub", wait), ("port", lambda config: [ok("port", "free")])], seconds=0.05
    )
    silent.set()
    assert [finding.status for finding in findings] == ["note", "ok"]
    assert "not checked" in findings[0].found


def test_long_findings_fit_the_terminal():
    finding = Finding("hub", "note", "a word " * 40, "run: python3 main.py tokenize " * 4)
    assert max(map(len, report([finding], width=80).splitlines())) <= 80
    assert len(report([finding]).splitlines()) == 3  # in a pipe a finding is one line


@pytest.mark.parametrize(
    ("versions", "status", "text"),
    [
        ({"torch": None}, "problem", "torch 2.13.0 is not installed"),
        ({"fastapi": None}, "note", "needed to benchmark, serve or export"),
        ({"torch": "2.9.0"}, "problem", "expected >=2.11,<3"),
        ({"torch": "2.12.1+cu128"}, "note", "torch 2.12.1 (pinned 2.13.0)"),
        ({"torch": "2.13.0+cpu"}, "ok", "as pinned"),
    ],
    ids=str,
)
def test_packages_are_compared_with_the_pins(monkeypatch, versions, status, text):
    pins = packages.read_pins(CHECKOUT / "requirements.txt")
    monkeypatch.setattr(packages, "version_of", lambda name: {**pins, **versions}[name])
    (finding,) = packages.check_packages()
    assert finding.status == status
    assert text in finding.found


def test_an_old_python_is_a_problem():
    (finding,) = packages.check_python((3, 9, 2))
    assert finding.status == "problem"
    assert "3.11 or newer" in finding.found


def test_gpus_are_read_from_nvidia_smi(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 580.95.05, 81920, 80896, 9.0'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(accelerator, "torch_cuda", lambda: "13.0")
    finding = only(check_accelerator(load_config()), "ok")
    assert "H100" in finding.found
    assert "bfloat16 and flash attention" in finding.found


@pytest.mark.parametrize(
    ("gpu", "cuda", "settings", "remedy"),
    [
        (H100, "12.8", (), ""),
        (H100, None, (), "pip install"),
        (replace(H100, driver="470.1"), "12.8", (), "update the NVIDIA driver"),
        (V100, "12.8", (), "--set training.attention=any"),
        (V100, "12.8", ("training.attention=any", "training.dtype=bfloat16"), "--set training.dtype=float32"),
        (H100, "12.8", ("training.dtype=float32",), "--set training.attention=any"),
        (H100, "12.8", ("training.batch_size=4096",), "--set training.batch_size=2048"),
    ],
)
def test_gpu_limitations_are_reported_with_a_remedy(gpu, cuda, settings, remedy):
    found = problems(gpu_problems(gpu, load_config(settings=settings), cuda=cuda))
    assert bool(found) == bool(remedy)
    assert not found or remedy in found[0].remedy


def test_a_busy_gpu_is_a_note():
    busy = replace(H100, free=1 << 30)
    assert only(gpu_problems(busy, load_config(), cuda="12.8"), "note").remedy.startswith("stop other programs")


def test_instruction_sets_come_from_the_system(tmp_path):
    information = tmp_path / "cpuinfo"
    information.write_text("model name\t: Test CPU\nflags\t\t: fpu avx2 avx512f avx512_bf16\n")
    (finding,) = check_processor(load_config(), information=information)
    assert "Test CPU" in finding.found
    assert "AVX2, AVX-512, AVX-512 bf16" in finding.found


def test_emulated_bfloat16_is_noted(tmp_path):
    information = tmp_path / "cpuinfo"
    information.write_text("flags : avx2\n")
    config = load_config(settings=["training.device=cpu", "training.dtype=bfloat16"])
    assert only(check_processor(config, information=information), "note").remedy == "--set training.dtype=float32"


@pytest.mark.parametrize(("mode", "status"), [("auto", "note"), ("on", "problem")])
def test_a_missing_compiler_stops_only_those_who_ask_for_it(monkeypatch, tmp_path, mode, status):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert check_compiler(load_config(settings=[f"training.compile={mode}"]))[0].status == status


@pytest.mark.parametrize(("kilobytes", "status"), [(1 << 30, "ok"), (1 << 20, "problem")])
def test_memory_is_compared_with_a_training_step(tmp_path, kilobytes, status):
    information = tmp_path / "meminfo"
    information.write_text(f"MemTotal: {kilobytes} kB\nMemAvailable: {kilobytes} kB\n")
    assert check_memory(load_config(settings=["training.device=cpu"]), information=information)[0].status == status


def test_a_small_disk_is_a_problem(monkeypatch, tmp_path):
    monkeypatch.setattr(disk, "free_disk", lambda folder: 10**9)
    settings = ["dataset.source=fineweb", f"paths.data_dir={tmp_path}", f"paths.checkpoint_dir={tmp_path}"]
    (finding,) = disk.check_disk(load_config(settings=settings))
    assert finding.status == "problem"
    assert "token dataset about 18.6 GB" in finding.found


def test_offline_is_a_problem_only_if_the_hub_is_needed(ready):
    assert check_hub(config_of(ready))[0].status == "note"
    (finding,) = check_hub(config_of(ready, f"paths.tokenizer_dir={ready / 'none'}"))
    assert finding.status == "problem"
    assert "tokenizer.json" in finding.remedy


@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        (Answer(200, has_token=True), "ok", "with access"),
        (Answer(401), "note", "not logged in"),
        (Answer(403, has_token=True), "note", "logged in; no access to GAIR/lima"),
        (Answer(reason="timed out"), "note", "cannot be reached"),
    ],
)
def test_the_login_is_judged_by_whether_lima_may_be_read(answer, status, text):
    (finding,) = judge(answer, {}, has_conversations=False)
    assert finding.status == status
    assert text in finding.found


def test_the_hub_is_asked_once(monkeypatch):
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(401)
            self.end_headers()

        def log_message(self, *arguments: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    answer = ask_hub(seconds=30)
    server.shutdown()
    server.server_close()
    assert answer.status == 401
    assert asked == [f"/api/datasets/{hub.LIMA}/auth-check"]


def test_a_tokenizer_of_another_size_is_a_problem(ready):
    (finding,) = problems(check_tokenizer(config_of(ready, "model.vocab_size=100")))
    assert "--set model.vocab_size=" in finding.remedy


def test_another_tokenizer_than_the_datasets_is_noted(ready):
    path = ready / "data" / "metadata.json"
    path.write_text(path.read_text().replace('"fingerprint": "', '"fingerprint": "other'))
    assert "not the tokenizer that made" in only(check_tokenizer(config_of(ready)), "note").found


def test_a_damaged_dataset_is_a_problem(ready):
    path = ready / "data" / "tokens_0.npy"
    path.write_bytes(path.read_bytes()[:-10])
    (finding,) = check_datasets(config_of(ready))
    assert finding.status == "problem"
    assert "--restart" in finding.remedy


def test_future_dataset_suggests_the_next_command(ready):
    missing = config_of(ready, f"dataset.custom_dir={ready / 'none'}", f"paths.cleaned_dir={ready / 'cleaned'}")
    assert check_datasets(missing)[0].status == "problem"
    (ready / "cleaned").mkdir()
    (ready / "cleaned" / "cleaned_a.txt").write_text("An article.\n")
    (finding,) = check_datasets(missing)
    assert (finding.status, finding.remedy) == ("note", "run: python3 main.py prepare")


def test_a_checkpoint_that_was_cut_off_is_noted(ready):
    folder = ready / "checkpoints" / "run_2026_01_01_00_00"
    path = small_checkpoint(folder / "checkpoint_latest.pt", trained_tokenizer(ready / "other"))
    assert check_checkpoints(config_of(ready))[0].status == "ok"
    path.write_bytes(path.read_bytes()[:-100])
    finding = only(check_checkpoints(config_of(ready)), "note")
    assert "run_2026_01_01_00_00/checkpoint_latest.pt" in finding.found


def test_a_port_in_use_is_noted():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        (finding,) = check_port(load_config(settings=[f"server.port={port}"]))
    assert finding.status == "note"
    assert f"--set server.port={port + 1}" in finding.remedy


def test_server_and_doctor_find_the_same_address(monkeypatch):
    both = [(socket.AF_INET6, 1, 6, "", ("::1", 0, 0, 0)), (socket.AF_INET, 1, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with listen("localhost", 0) as listener:
        port = listener.getsockname()[1]
        listener.listen()
        both[1] = (*both[1][:4], ("127.0.0.1", port))
        (finding,) = check_port(load_config(settings=["server.host=localhost"]))
    assert (listener.family, finding.status) == (socket.AF_INET, "note")


def test_only_problems_keep_the_route_from_running():
    assert can_run([Finding("a", "ok", "x"), Finding("b", "note", "x")])
    assert not can_run([Finding("a", "problem", "x", "y")])
