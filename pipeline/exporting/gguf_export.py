"""Export a checkpoint as a GGUF file for llama.cpp, ollama and the like.

export_to_gguf(load_for_inference("latest", config, device="cpu", dtype="float32"), Path("model.gguf"))
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.exporting.weight_types import torch_dtype
from utils.files import make_folder, move_into_place

if TYPE_CHECKING:
    from pipeline.exporting.comparison import Comparison
    from pipeline.generation.loading import LoadedModel


def export_to_gguf(
    loaded: "LoadedModel", path: Path, *, dtype: str = "float32", overwrite: bool = False
) -> "Comparison":
    """Write `loaded` as a file for llama.cpp, compare the two, and only then give it its name.

    Returns:
        The number of ``tensors`` compared; if llama-cpp-python is installed, also ``logit_difference`` and
        ``greedy_tokens``.

    Raises:
        PipelineError: the model has a property that llama.cpp's llama and qwen3 lack, the file exists, or the export
            differs.
    """
    from pipeline.exporting.earlier_export import refuse_to_replace_file
    from pipeline.exporting.gguf_check import check_gguf_file
    from pipeline.exporting.gguf_file import write_gguf_file

    weights_dtype = torch_dtype(dtype)
    refuse_to_replace_file(path, overwrite=overwrite)
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.tmp.gguf")
    try:
        write_gguf_file(loaded, temporary, dtype=weights_dtype)
        measured = check_gguf_file(temporary, loaded, dtype=weights_dtype)
        move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return measured
