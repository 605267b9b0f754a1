"""A bar on stderr for what takes long, shown on a terminal only; `python -m convert` uses it too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(what: str, unit: str = "B") -> Iterator[Callable[[int, int], None]]:
    """Gives a function to call with how many units are done and how many there are; bytes (B) are shown scaled."""
    from tqdm import tqdm

    # None: shown on a terminal only.
    with tqdm(desc=what, unit=unit, unit_scale=unit == "B", disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
