"""The plot of one benchmark as a PNG: tokens per second by the length of the context, and by streams."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import StorageError, UsageError
from .subjects import Figures


def check_plot(path: Path) -> None:
    """Raise UsageError, before anything is measured, when the plot could not be drawn."""
    if path.suffix.lower() != ".png":
        raise UsageError(f"--plot {path}: must end in .png")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError("--plot needs matplotlib; install it with: pip install 'glm-edge[plot]'") from None


def plot(path: Path, figures: Figures, about: Mapping[str, Any]) -> None:
    """Draw the medians of the engine. Raises StorageError when the file cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for kind in ("prefill", "decode"):
        points = _points(figures, "depth_", f"_{kind}_rate")
        left.plot([x for x, _ in points], [y for _, y in points], marker="o", label=kind)
    left.set(xlabel="tokens of context", ylabel="tokens/s", title="one stream", ylim=(0, None))
    left.legend()
    points = _points(figures, "streams_", "_rate")
    right.plot([x for x, _ in points], [y for _, y in points], marker="o")
    right.set(xlabel="streams", ylabel="tokens/s, together", title="decode", ylim=(0, None))
    right.set_xticks([x for x, _ in points])
    figure.suptitle(f"{about['file']} on {about['machine']['cpu']}", fontsize="medium")
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise StorageError(f"{path}: cannot write the plot: {error.strerror}") from error


def _points(figures: Figures, start: str, end: str) -> list[tuple[int, float]]:
    """(number in the name, value) of the figures so named, by number."""
    names = [name for name in figures if name.startswith(start) and name.endswith(end)]
    return sorted((int(name.removeprefix(start).removesuffix(end)), figures[name]) for name in names)
