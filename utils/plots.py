"""Plot curves over steps and grouped bars as PNG or SVG files, according to the name.

save_curves(Path("loss.png"), {"train": [(10, 5.1), (20, 4.8)]}, x_label="step", y_label="loss")
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from utils.files import whole_file

Point = tuple[float, float]


def save_curves(
    path: Path, curves: Mapping[str, Sequence[Point]], *, title: str = "", x_label: str = "", y_label: str = ""
) -> None:
    """Plot all `curves` in one chart; curves with few points get markers."""
    figure, axes = new_figure(title)
    for name, points in curves.items():
        marker = "o" if len(points) <= 20 else None
        axes.plot([x for x, _ in points], [y for _, y in points], label=name, marker=marker, markersize=4)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    save_figure(path, figure)


def new_figure(title: str = "", *, rows: int = 1, columns: int = 1, size: tuple[float, float] = (8, 4.5)) -> Any:
    """(figure, axes) without a display. Imports matplotlib here because that takes half a second."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=True)
    if title:
        figure.suptitle(title, fontsize=12)
    return figure, axes


def save_figure(path: Path, figure: Any) -> None:
    buffer = BytesIO()
    figure.savefig(buffer, format=path.suffix.removeprefix("."), dpi=130)
    with whole_file(path) as file:
        file.write(buffer.getvalue())
