"""Draw the rooms and their imports as an SVG, generated from the code. `make docs` adds it to the documentation.

    python -m checks.architecture_picture docs/images/architecture.svg

Layers are rows, and rooms are boxes with their number of lines. A line means that a file in the upper room imports one
in the lower room. The ground floor, which almost everything imports, has one arrow per layer.
"""

import html
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from checks.import_graph import CHECKOUT, LAYERS, Graph, layer_of, read_graph, room_of

BOX_HEIGHT, ROW_HEIGHT, GAP, MARGIN, CHARACTER = 40, 104, 12, 16, 7.2
GROUND_FLOOR = len(LAYERS) - 1


@dataclass(frozen=True)
class Box:
    """A room's place in the picture, in pixels."""

    x: float
    y: float
    width: float

    @property
    def centre(self) -> float:
        return self.x + self.width / 2


def room_imports(graph: Graph) -> set[tuple[str, str]]:
    """(upper room, lower room) for every import between two rooms, without those to the ground floor."""
    pairs = {(room_of(file), room_of(target)) for file, imported in graph.items() for target in imported}
    return {(upper, lower) for upper, lower in pairs if layer_of(upper) < layer_of(lower) < GROUND_FLOOR}


def lines_of_rooms(root: Path, graph: Graph) -> dict[str, int]:
    counts: dict[str, int] = {}
    for file in graph:
        counts[room_of(file)] = counts.get(room_of(file), 0) + len((root / file).read_text("utf-8").splitlines())
    return counts


def picture(root: Path = CHECKOUT) -> str:
    """The SVG source."""
    graph = {file: imported for file, imported in read_graph(root).items() if not file.endswith("__init__.py")}
    lines = lines_of_rooms(root, graph)
    boxes, width = _place_boxes(lines)
    height = len(LAYERS) * ROW_HEIGHT + MARGIN
    arrows = [_arrow(boxes[upper], boxes[lower]) for upper, lower in sorted(room_imports(graph))]
    rooms = [_box(room, box, lines[room]) for room, box in boxes.items()]
    names = [
        f'<text class="layer" x="{MARGIN}" y="{row * ROW_HEIGHT + MARGIN + 10}">{html.escape(layer.name)}</text>'
        for row, layer in enumerate(LAYERS)
    ]
    return "\n".join([_head(width, height), *arrows, *rooms, *names, "</svg>", ""])


def _place_boxes(lines: Mapping[str, int]) -> tuple[dict[str, Box], float]:
    rows = [[room for room in layer.rooms if room in lines] for layer in LAYERS]
    widths = {room: CHARACTER * max(len(_title(room)), 10) + 16 for row in rows for room in row}
    total = max(sum(widths[room] + GAP for room in row) for row in rows) + 2 * MARGIN
    boxes = {}
    for number, row in enumerate(rows):
        x = (total - sum(widths[room] + GAP for room in row) + GAP) / 2
        for room in row:
            boxes[room] = Box(x, number * ROW_HEIGHT + MARGIN + 20, widths[room])
            x += widths[room] + GAP
    return boxes, total


def _title(room: str) -> str:
    return room.removeprefix("pipeline/") + (".py" if "/" not in room and room != "utils" else "/")


def _box(room: str, box: Box, lines: int) -> str:
    kind = "folder" if _title(room).endswith("/") else "script"
    return (
        f'<rect class="{kind}" x="{box.x:.0f}" y="{box.y:.0f}" width="{box.width:.0f}" height="{BOX_HEIGHT}" rx="6"/>'
        f'<text class="room" x="{box.centre:.0f}" y="{box.y + 17:.0f}">{html.escape(_title(room))}</text>'
        f'<text class="lines" x="{box.centre:.0f}" y="{box.y + 32:.0f}">{lines:,} lines</text>'
    )


def _arrow(upper: Box, lower: Box) -> str:
    start, end = upper.y + BOX_HEIGHT, lower.y
    middle = (start + end) / 2
    path = f"M{upper.centre:.0f} {start:.0f} C{upper.centre:.0f} {middle:.0f} {lower.centre:.0f} {middle:.0f}"
    return f'<path d="{path} {lower.centre:.0f} {end:.0f}"/>'


def _head(width: float, height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        'aria-label="Rooms of the project and what they import">'
        "<style>text{font:12px system-ui,sans-serif;fill:#1f2933}.room{text-anchor:middle;font-weight:600}"
        ".lines{text-anchor:middle;font-size:10px;fill:#52606d}.layer{font-size:11px;fill:#7b8794}"
        "rect{stroke:#3e4c59;stroke-width:1}.script{fill:#e3f2fd}.folder{fill:#fff8e1}"
        "path{fill:none;stroke:#829ab1;stroke-width:1;opacity:.55}</style>"
        f'<rect width="{width:.0f}" height="{height:.0f}" style="fill:#fff;stroke:none"/>'
    )


def main(arguments: list[str]) -> int:
    target = Path(arguments[0])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(picture(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
