"""The task names and the presets' item counts. Cheap to import, for the command line and the menu."""

from pipeline.formats.benchmark_files import PATTERNS

SETS = tuple(PATTERNS)
TASK_NAMES = (*SETS, "completion")
PRESETS: dict[str, dict[str, int]] = {
    "quick": {"wikitext": 50, "lambada": 20, "hellaswag": 10, "harness": 20},
    "standard": {"wikitext": 100, "lambada": 50, "hellaswag": 20, "harness": 100},
    "comprehensive": {"wikitext": 200, "lambada": 100, "hellaswag": 50, "harness": 500},
    "full": {},
}


def preset_summary(name: str) -> str:
    """``100 wikitext, 50 lambada, 20 hellaswag, 100 harness``"""
    counts = PRESETS[name]
    return ", ".join(f"{count} {task}" for task, count in counts.items()) or "everything, comparable"
