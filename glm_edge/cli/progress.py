"""A bar on stderr for what takes long, shown on a terminal only; `python -m convert` uses it too."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody sits there; a stream that was closed before the start is None."""
    return stream is not None and stream.isatty()


@contextmanager
def progress_bar(what: str, unit: str = "B") -> Iterator[Callable[[int, int], None]]:
    """Gives a function to call with how many units are done and how many there are; bytes (B) are shown scaled."""
    from tqdm import tqdm

    hidden = not is_terminal(sys.stderr)
    with tqdm(desc=what, unit=unit, unit_scale=unit == "B", disable=hidden, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
