"""The fault suite: inject faults into every stage at every file operation, and flip bits in every file.

    make test-faults                                            # all of it
    python -m tests.faults --sample 50                          # a sample of all stages and kinds
    python -m tests.faults --stage training --kind kill         # selected stages and kinds
    python -m tests.faults --write docs/reliability.md          # all; updates the table in that page

After each fault, the next run must produce the same bytes as an undisturbed run or refuse with a one-line error. The
exit code is 1 if any did not.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

from tests.faults.flips import FLIPS
from tests.faults.lab import WRONG, Case, Lab
from tests.faults.layer import KINDS
from tests.faults.stages import STAGES, Stage, import_stages
from tests.faults.table import outcome_table, write_table

_FLIPS_EACH = 40
Trial = Callable[[Lab], Case]


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    import_stages(last_stage(args))
    base = Path(tempfile.mkdtemp(prefix="faults_"))
    try:
        cases = run_all(base, args)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print(outcome_table(cases))
    wrong = [case for case in cases if case.outcome == WRONG]
    for case in wrong:
        print(_described(case))
    print(f"{len(cases):,} faults, {len(wrong):,} wrong")
    if args.write and not wrong:
        write_table(args.write, cases)
    return 1 if wrong else 0


def _described(case: Case) -> str:
    return f"WRONG: {case.stage}, {case.kind} at {case.place}: {case.detail}"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, metavar="N", help="try only about N of the faults")
    kinds = list(dict.fromkeys([*KINDS, *(flip.kind for flip in FLIPS)]))
    names = [stage.name for stage in STAGES]
    parser.add_argument("--stage", nargs="+", choices=names, default=names, help="only these stages")
    parser.add_argument("--kind", nargs="+", choices=kinds, default=kinds, help="only these kinds")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="number of parallel processes (%(default)s)")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="update the table in this page if nothing is wrong")
    return parser.parse_args(argv)


def last_stage(args: argparse.Namespace) -> Stage:
    return [stage for stage in STAGES if stage.name in args.stage][-1]


def run_all(base: Path, args: argparse.Namespace) -> list[Case]:
    """Distribute the trials over `args.jobs` processes, each with its own world."""
    processes = []
    for number in range(args.jobs):
        process = os.fork()
        if process == 0:
            _work(base, args, number)
        processes.append(process)
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    if any(codes):
        sys.exit(f"a process of the suite ended with {max(codes)}")
    results = [json.loads((base / f"{number}.json").read_text()) for number in range(args.jobs)]
    return [Case(**case) for result in results for case in result]


def _work(base: Path, args: argparse.Namespace, number: int) -> None:
    code = 1
    try:
        lab = Lab(base / str(number), last_stage(args))
        chosen = trials(lab, args)[number :: args.jobs]
        cases = []
        for done, trial in enumerate(chosen, start=1):
            case = trial(lab)
            cases.append(asdict(case))
            if case.outcome == WRONG:
                print(_described(case), file=sys.stderr, flush=True)
            if number == 0 and done % 100 == 0:
                print(f"{done * args.jobs:,} of about {len(chosen) * args.jobs:,} faults", file=sys.stderr, flush=True)
        (base / f"{number}.json").write_text(json.dumps(cases))
        code = 0
    finally:
        if code:
            sys.excepthook(*sys.exc_info())
        os._exit(code)


def trials(lab: Lab, args: argparse.Namespace) -> Sequence[Trial]:
    """The faults to try, in a fixed order."""
    stages = [stage for stage in STAGES if stage.name in args.stage]
    faults = [(stage, fault) for stage in stages for fault in lab.faults(stage) if fault.kind in args.kind]
    flips = [flip for flip in FLIPS if flip.stage in args.stage and flip.kind in args.kind]
    found: list[Trial] = [lambda lab, s=stage, f=fault: lab.try_fault(s, f) for stage, fault in faults]
    found += [lambda lab, f=flip, n=seed: lab.try_flip(f, n) for flip in flips for seed in range(_FLIPS_EACH)]
    return found[:: max(1, len(found) // args.sample)] if args.sample else found


if __name__ == "__main__":
    sys.exit(main())
