"""Run one step in this process and write its rows to a file; `check.py` starts it once for each step.

python -m pipeline.doctor.gpu.step_process flash --device cuda --folder DIR --result FILE
"""

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from pipeline.doctor.gpu import correctness, memory, speed, training_runs
from pipeline.doctor.gpu.trial import FULL, REHEARSAL, Row, Trial
from pipeline.training.run_info import versions
from utils.devices import resolve_device

RUN: Mapping[str, Callable[[Trial], list[Row]]] = {
    "float32": correctness.compare_float32,
    "bfloat16": correctness.compare_bfloat16,
    "flash": correctness.compare_flash,
    "cudnn": correctness.compare_cudnn,
    "documents": correctness.compare_documents,
    "packing": correctness.compare_packing,
    "checkpointing": correctness.compare_checkpointing,
    "head": correctness.compare_head_loss,
    "cache": correctness.compare_cache,
    "int8": correctness.compare_int8,
    "compiled": training_runs.compare_compiled,
    "resumed": training_runs.compare_resumed,
    "parts": training_runs.measure_parts,
    "processes": training_runs.start_too_many_processes,
    "memory-25m": partial(memory.compare_memory, number=0),
    "memory-110m": partial(memory.compare_memory, number=1),
    "out-of-memory": memory.follow_advice,
    "speed-25m": partial(speed.measure_training, number=0),
    "speed-110m": partial(speed.measure_training, number=1),
    "speed-350m": partial(speed.measure_training, number=2),
    "writing": speed.measure_decoding,
    "nanogpt": speed.compare_nanogpt,
    "nanochat": speed.compare_nanochat,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=RUN)
    parser.add_argument("--device", required=True)
    parser.add_argument("--rehearse", action="store_true", help="the small sizes")
    parser.add_argument("--folder", type=Path, required=True, help="for temporary files")
    parser.add_argument("--result", type=Path, required=True, help="the file for the rows")
    parser.add_argument("--nanogpt", type=Path)
    parser.add_argument("--nanochat", type=Path)
    args = parser.parse_args(argv)
    scale = REHEARSAL if args.rehearse else FULL
    trial = Trial(args.device, scale, args.folder, nanogpt=args.nanogpt, nanochat=args.nanochat)
    rows = rows_of(args.step, trial)
    content = {"versions": versions(resolve_device(args.device)), "rows": [asdict(row) for row in rows]}
    args.result.write_text(json.dumps(content), encoding="utf-8")
    return 0


def rows_of(name: str, trial: Trial) -> list[Row]:
    """The step's rows, or one that says what kept it from having any."""
    try:
        return RUN[name](trial)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        reason = str(error).strip().partition("\n")[0]
        return [Row(name, f"{type(error).__name__}: {reason}", "a result", "error")]


if __name__ == "__main__":
    sys.exit(main())
