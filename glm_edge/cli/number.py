"""Numbers as options: click's FloatRange, which lets NaN pass any range, without NaN."""

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
