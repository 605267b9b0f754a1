"""Numbers and names as options: click's types, whose errors say in plain words what the option takes; and threads."""

from __future__ import annotations

import math
from difflib import get_close_matches
from typing import Any

import click


class WholeNumber(click.IntRange):
    """A whole number from `min` on, up to `max` where there is one."""

    name = "x"  # as in the ranges of --help: "--port X  [0<=x<=65535]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            if isinstance(value, float) and not value.is_integer():  # of the configuration file; int() would cut it
                raise click.BadParameter("")
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            raise _refusal("a whole number", self.min, self.max, value, param, ctx) from None


class Number(click.FloatRange):
    """A number from `min` on, up to `max` where there is one. Refuses NaN, which passes click's range."""

    name = "x"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(super().convert(value, param, ctx))
        except click.BadParameter:
            number = math.nan
        if math.isnan(number):
            raise _refusal("a number", self.min, self.max, value, param, ctx)
        return number


class OneOf(click.Choice[str]):
    """One of a few names."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return str(super().convert(value, param, ctx))
        except click.BadParameter:
            raise no_choice(str(value), list(self.choices), param, ctx) from None


def no_choice(
    value: str, choices: list[str], param: click.Parameter | None, ctx: click.Context | None
) -> click.UsageError:
    """The refusal of a value that is none of the names, with the nearest."""
    name = param.opts[0] if isinstance(param, click.Option) else (param.human_readable_name if param else "this")
    near = get_close_matches(value.lower(), choices, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return click.UsageError(f"{name} takes one of {', '.join(choices)}, not {value!r}{hint}", ctx)


class ThreadCount(WholeNumber):
    """A number of threads that compute. More than there are processors only wait for each other: capped, and said."""

    def __init__(self) -> None:
        super().__init__(1, 1024)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from ..system.device import processors

        asked = super().convert(value, param, ctx)
        most = processors().logical
        if asked > most:
            click.echo(f"warning: --threads {asked}: this machine has {most} processors; using {most}", err=True)
        return min(asked, most)


def _refusal(
    kind: str,
    low: float | None,
    high: float | None,
    value: object,
    param: click.Parameter | None,
    ctx: click.Context | None,
) -> click.UsageError:
    limits = f"of at least {low}" if high is None else f"from {low} to {high}"
    name = param.opts[0] if param is not None else "this option"
    return click.UsageError(f"{name} takes {kind} {limits}, not {str(value)!r}", ctx)
