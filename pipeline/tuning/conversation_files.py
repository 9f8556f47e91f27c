"""Read a file of conversations: JSON lines (optionally compressed), a JSON array, or Parquet, told apart by content.

for record in read_records(Path("alpaca_data.json")):
    ...                                                     # record.number, record.value, or record.problem
"""

from collections.abc import Iterator
from pathlib import Path

from pipeline.formats.raw_files import BOM, RawFile, Record
from utils.errors import PipelineError

_EXPECTED = "expected conversations as JSON lines, as a JSON array or in a Parquet file"
_PARQUET_MAGIC = b"PAR1"
_BEGINNING_BYTES = 4096


def read_records(path: Path) -> Iterator[Record]:
    """The records of `path`, numbered from 1 by line, array item or row. A JSON array is read as a whole.

    Raises:
        PipelineError: the file does not exist, cannot be read, or is damaged.
    """
    try:
        with path.open("rb") as file:
            beginning = file.read(_BEGINNING_BYTES)
        if beginning.removeprefix(BOM).lstrip().startswith(b"["):
            yield from _array_items(path)
            return
        kind = "parquet" if beginning.startswith(_PARQUET_MAGIC) else "jsonl"
        with RawFile(path, kind=kind) as records:
            yield from records.records()
    except FileNotFoundError:
        raise PipelineError(f"{path} does not exist; {_EXPECTED}") from None
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror}; {_EXPECTED}") from None


def _array_items(path: Path) -> Iterator[Record]:
    import orjson

    try:
        items = orjson.loads(path.read_bytes().removeprefix(BOM))
    except orjson.JSONDecodeError as error:
        raise PipelineError(f"{path} begins with [ but is not a JSON array: {error}; {_EXPECTED}") from None
    for number, item in enumerate(items, 1):
        if isinstance(item, dict):
            yield Record(number, item)
        else:
            yield Record(number, None, f"a JSON {type(item).__name__}, expected an object")
