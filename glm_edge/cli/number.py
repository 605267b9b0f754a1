"""Numbers as options: click's FloatRange, which lets NaN pass any range, without NaN; and threads."""

from __future__ import annotations

import math
from typing import Any

import click


class Number(click.FloatRange):
    """A FloatRange that refuses NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


class ThreadCount(click.IntRange):
    """A number of threads that compute. More than there are processors only wait for each other: capped, and said."""

    def __init__(self) -> None:
        super().__init__(1, 1024)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from ..system.device import processors

        asked = int(super().convert(value, param, ctx))
        most = processors().logical
        if asked > most:
            click.echo(f"warning: --threads {asked}: this machine has {most} processors; using {most}", err=True)
        return min(asked, most)
