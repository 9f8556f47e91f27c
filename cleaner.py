"""Clean raw Wikipedia, or a folder of your own text, into `cleaned_<source>.txt`, one article per line.

    python3 cleaner.py --test                 # the first 50,000 articles of each file
    python3 cleaner.py                        # all of paths.raw_dir, four files in parallel
    python3 cleaner.py --input my_texts/ --output data/cleaned_mine
    python3 cleaner.py --show 3               # show three articles before and after; writes nothing

Reads structured contents (JSONL, Parquet), `{title, text}` (JSONL, Parquet), MediaWiki XML, .txt and .md, also as .gz,
.bz2 and .zst. The `cleaning` section of the configuration decides what to keep; see docs/cleaning.md.
"""

import argparse
import time

from pipeline.cleaning.articles import clean_article
from pipeline.cleaning.plan import plan_jobs, refuse_own_output
from pipeline.cleaning.preview import show
from pipeline.cleaning.report import print_summary
from pipeline.cleaning.run import clean_all
from pipeline.configuration import load_config_from
from utils.cli import run, stage_parser
from utils.errors import PipelineError

__all__ = ["clean_article", "main"]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--input", dest="paths.raw_dir", metavar="PATH", help="a raw file or folder (paths.raw_dir)")
    parser.add_argument(
        "--output", dest="paths.cleaned_dir", metavar="DIR", help="folder for the cleaned files (paths.cleaned_dir)"
    )
    parser.add_argument(
        "--test", action="store_true", help="only the first articles of each file (cleaning.test_articles)"
    )
    parser.add_argument(
        "--workers",
        dest="cleaning.workers",
        metavar="N",
        type=int,
        help="files cleaned in parallel, one process each (cleaning.workers)",
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first malformed record")
    parser.add_argument("--show", type=int, metavar="N", help="print N articles before and after, side by side")
    parser.add_argument("--all", action="store_true", help="with --show: whole articles, not a screen of each")
    args = parser.parse_args(argv)
    if args.show is not None and args.show < 1:
        parser.error("--show must be at least 1")
    if args.all and not args.show:
        parser.error("--all needs --show N")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    config = load_config_from(args)
    started = time.monotonic()
    raw_dir = config.paths.raw_dir
    jobs = plan_jobs(raw_dir)
    if args.show:
        show(jobs, config.cleaning, args.show, whole=args.all)
        return 0
    refuse_own_output(raw_dir, config.paths.cleaned_dir, jobs)
    limit = config.cleaning.test_articles if args.test else None
    cleaning = clean_all(config.paths.cleaned_dir, jobs, config.cleaning, limit=limit, strict=args.strict)
    print_summary(cleaning, time.monotonic() - started)
    if not cleaning.report()["totals"]["read"]:
        raise PipelineError(f"{raw_dir} contains no records; expected articles in {jobs[0].input_names}")
    return 0


if __name__ == "__main__":
    run(main)
