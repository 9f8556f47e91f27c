"""Export a checkpoint as a folder for transformers, vLLM and the like.

export_to_hf(load_for_inference("latest", config, device="cpu", dtype="float32"), Path("exported"))
"""

import glob
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.exporting.weight_types import torch_dtype
from utils.files import remove_stale_temporaries, temporary_path

if TYPE_CHECKING:
    from pipeline.exporting.comparison import Comparison
    from pipeline.generation.loading import LoadedModel


def export_to_hf(
    loaded: "LoadedModel",
    directory: Path,
    *,
    dtype: str = "float32",
    scores: Mapping[str, object] | None = None,
    overwrite: bool = False,
) -> "Comparison":
    """Write `loaded` as a folder that transformers loads, compare the two, and only then give it its name.

    Args:
        scores: a benchmark's results for the model card.

    Returns:
        ``logit_difference`` (of the largest logit) and the number of ``greedy_tokens`` compared.

    Raises:
        PipelineError: the model has a property that Llama and Qwen3 lack, the folder exists, or the export differs.
    """
    from pipeline.exporting.earlier_export import refuse_to_replace, replace_folder
    from pipeline.exporting.hf_check import check_hf_folder
    from pipeline.exporting.hf_folder import write_hf_folder

    weights_dtype = torch_dtype(dtype)
    refuse_to_replace(directory, overwrite=overwrite)
    remove_stale_temporaries(directory.parent, glob.escape(directory.name))
    temporary = temporary_path(directory)
    try:
        write_hf_folder(loaded, temporary, dtype=weights_dtype, name=directory.name, scores=scores)
        measured = check_hf_folder(temporary, loaded, dtype=weights_dtype)
        replace_folder(directory, by=temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return measured
