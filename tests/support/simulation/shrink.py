"""The shortest run that still shows what a failed run showed: clients, faults and options are left out one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import TypeVar

from .client import Violation
from .plan import Arrival, Plan
from .run import Simulation

T = TypeVar("T")


def failure(plan: Plan) -> tuple[str, str, int] | None:
    """(kind, message, step) of what goes wrong in a run; None where nothing does."""
    simulation = Simulation(plan)
    try:
        simulation.run()
    except Exception as raised:  # whatever the engine raised is what is looked for
        error: BaseException = raised
        while isinstance(error.__context__, Violation):  # the first; the engine may end badly after it
            error = error.__context__
        kind = error.kind if isinstance(error, Violation) else type(error).__name__
        return kind, f"{type(error).__name__}: {error}", simulation.step
    return None


def shrunk(plan: Plan, *, seconds: float = 60.0) -> Plan:
    """A smaller plan that fails in the same way; the same plan where it does not fail or none was found in time."""
    found = failure(plan)
    if found is None:
        return plan
    kind, _, step = found
    until = time.monotonic() + seconds

    def fails(candidate: Plan) -> bool:
        if time.monotonic() > until:
            return False
        again = failure(candidate)
        return again is not None and again[0] == kind

    plan = _kept(plan, _without_after(plan, step), fails)
    before = None
    while plan != before and time.monotonic() < until:
        before = plan
        for candidate in _smaller_worlds(plan):
            plan = _kept(plan, candidate, fails)
        plan = _fewer(plan, plan.faults, lambda p, faults: replace(p, faults=faults), fails)
        plan = _fewer(plan, plan.arrivals, lambda p, arrivals: replace(p, arrivals=arrivals), fails)
        for i in range(len(plan.arrivals)):
            for candidate in _smaller_arrivals(plan, i):
                plan = _kept(plan, candidate, fails)
    return plan


def _kept(plan: Plan, candidate: Plan, fails: Callable[[Plan], bool]) -> Plan:
    return candidate if candidate != plan and fails(candidate) else plan


def _without_after(plan: Plan, step: int) -> Plan:
    arrivals = tuple(arrival for arrival in plan.arrivals if arrival.step <= step)
    return replace(plan, arrivals=arrivals, faults=tuple(f for f in plan.faults if f[0] <= step), steps=step)


def _fewer(
    plan: Plan, items: Sequence[T], with_items: Callable[[Plan, tuple[T, ...]], Plan], fails: Callable[[Plan], bool]
) -> Plan:
    """Leave out halves of the items, then quarters, down to one at a time."""
    size = max(1, len(items) // 2)
    while True:
        start = 0
        while start < len(items):
            candidate = with_items(plan, (*items[:start], *items[start + size :]))
            if fails(candidate):
                plan, items = candidate, (*items[:start], *items[start + size :])
            else:
                start += size
        if size == 1:
            return plan
        size //= 2


def _smaller_worlds(plan: Plan) -> list[Plan]:
    world = plan.world
    options = [
        {"disk": False},
        {"lookup": False},
        {"rows_of_four": False},
        {"store_bytes": 0},
        {"token_s": 0.001},
        {"slots": 1},
    ]
    return [replace(plan, world=replace(world, **option)) for option in options]


def _smaller_arrivals(plan: Plan, i: int) -> list[Plan]:
    one = plan.arrivals[i]
    options: list[Arrival] = [
        replace(one, continues=-1),
        replace(one, n=1),
        replace(one, stop=()),
        replace(one, leaving="", after=0),
        replace(one, max_tokens=1),
        replace(one, max_tokens=max(1, one.max_tokens // 2)),
        replace(one, shared=0),
        replace(one, shared=one.shared // 2),
        replace(one, own=max(1, one.own // 2)),
        replace(one, sampling=replace(one.sampling, temperature=0, top_k=0, repetition_penalty=1.0)),
    ]
    return [replace(plan, arrivals=(*plan.arrivals[:i], option, *plan.arrivals[i + 1 :])) for option in options]


def report(seed: int, plan: Plan) -> str:
    """What to print of a seed whose plan fails."""
    small = shrunk(plan)
    found, message = failure(plan), failure(small)
    lines = [f"seed {seed} fails at step {found[2] if found else '-'}: {found[1] if found else 'not any more'}"]
    lines.append(f"the shortest run that shows it, {message[1] if message else ''}")
    lines += [f"  {brief(small.world)}", *(f"  {brief(arrival)}" for arrival in small.arrivals)]
    lines += [f"  step {step}: {fault}" for step, fault in small.faults]
    return "\n".join(lines)


def brief(value: object) -> str:
    """A dataclass without the fields that have their defaults."""
    if not is_dataclass(value):
        return repr(value)
    shown = []
    for field in fields(value):
        held = getattr(value, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if held != default:
            shown.append(f"{field.name}={brief(held)}")
    return f"{type(value).__name__}({', '.join(shown)})"
