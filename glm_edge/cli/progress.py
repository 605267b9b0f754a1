"""Progress bars on stderr, shown on a terminal only. The one place that imports tqdm."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from tqdm import tqdm


def is_terminal(stream: TextIO | None) -> bool:
    """Whether the stream is a terminal. A stream that was closed before the start is None."""
    return stream is not None and stream.isatty()


def bar(what: str | None = None, **options: Any) -> tqdm[Any]:
    """A bar with tqdm's `options`: hidden unless stderr is a terminal, and removed at its end."""
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # no thread that looks after slow bars, and no warning where the system has none for it
    return tqdm(desc=what, disable=not is_terminal(sys.stderr), leave=False, **options)


def say(line: str) -> None:
    """Print a line on stderr, above a bar that is shown."""
    if is_terminal(sys.stderr):
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)
    else:
        click.echo(line, err=True)


@contextmanager
def progress_bar(what: str, unit: str = "B") -> Iterator[Callable[[int, int], None]]:
    """A bar that is moved by a function(units done, units in all); bytes (B) and weights are shown scaled."""
    with bar(what, unit=unit, unit_scale=unit in ("B", "weight")) as shown:

        def progress(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield progress
