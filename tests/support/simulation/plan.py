"""What happens in a simulated run, drawn from a seed before it begins: so a run can be replayed, and made smaller."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from glm_edge.types import SamplingParams

from .fake_llama import FIRST_TEXT, N_VOCAB, Fault, FaultKind

Leaving = Literal["", "at once", "between batches", "in a batch", "after chunks", "vanish"]

START = [0, 1]  # control tokens that every prompt begins with
_FAULTS: tuple[FaultKind, ...] = (
    "full",
    "aborted",
    "error",
    "slow",
    "nan",
    "nan everywhere",
    "state fails",
    "restore refused",
)
_FATAL: FaultKind = "error"
_FAMILIES = 5  # beginnings that prompts share


@dataclass(frozen=True)
class World:
    """The engine that a run simulates, and how long its batches take."""

    slots: int
    queue_size: int
    n_ctx: int
    n_batch: int
    store_bytes: int
    token_s: float
    lookup: bool
    rows_of_four: bool
    disk: bool = False  # whether prefixes outlive the engine
    walls: bool = True  # whether clients send keys: prefixes are then found by requests of the same key alone


@dataclass(frozen=True)
class Arrival:
    """A client, what it asks and how it leaves."""

    step: int
    key: str
    family: int  # whose beginning its prompt has
    shared: int  # tokens of that
    own: int  # tokens of its own, drawn with `seed`
    seed: int
    max_tokens: int
    n: int = 1
    sampling: SamplingParams = field(default_factory=lambda: SamplingParams(0))
    stop: tuple[str, ...] = ()
    continues: int = -1  # seed of the client whose conversation it goes on with, where that has ended
    leaving: Leaving = ""
    after: int = 0  # steps, or chunks

    @property
    def prompt(self) -> list[int]:
        """Its prompt where it continues no other."""
        return [*START, *_tokens(f"family {self.family}", self.shared), *self.own_tokens]

    @property
    def own_tokens(self) -> list[int]:
        return _tokens(f"own {self.seed}", self.own)


@dataclass(frozen=True)
class Plan:
    """All that decides a run."""

    world: World
    arrivals: tuple[Arrival, ...]
    faults: tuple[tuple[int, Fault], ...]  # by step
    steps: int  # after which nobody comes any more


def draw_plan(seed: int, steps: int) -> Plan:
    """The plan of a seed; other steps with the same seed make another plan."""
    rng = random.Random(f"simulation {seed}")
    world = _world(rng)
    gap = rng.choice([2, 5, 10, 20, 40])
    spread = rng.choice([0.0, 0.3, 1.0])  # how many of them leave before the end
    arrivals: list[Arrival] = []
    step = 0
    while (step := step + (rng.randrange(2 * gap) if rng.random() < 0.8 else 0)) < steps:
        arrivals.append(_repeated(rng, arrivals, step) or _arrival(rng, world, len(arrivals), step, spread))
    rate = rng.choice([0.0, 0.005, 0.02, 0.1])
    fatal = rng.choice([0.0, 0.0, 0.2])  # a dead engine forgets all, so most runs have none
    faults = []
    for at in range(steps):
        if rng.random() < rate:
            kind = rng.choice(_FAULTS)
            if kind != _FATAL or rng.random() < fatal:
                faults.append((at, Fault(kind, rng.random())))
    return Plan(world, tuple(arrivals), tuple(faults), steps)


def _world(rng: random.Random) -> World:
    slots = rng.choice([1, 2, 2, 3, 4])
    n_ctx = rng.choice([48, 96, 96, 200, 900])
    return World(
        slots=slots,
        queue_size=rng.choice([0, 2, 6, 20]),
        n_ctx=n_ctx,
        n_batch=max(slots, rng.choice([4, 8, 16, 32, 128])),
        store_bytes=rng.choice([0, 16 * n_ctx // 2, 16 * n_ctx * 2, 16 * n_ctx * 20]),
        token_s=rng.choice([0.001, 0.05, 0.2]),
        lookup=rng.random() < 0.7,
        rows_of_four=rng.random() < 0.5,
        disk=n_ctx == 900 and rng.random() < 0.5,  # nothing shorter is worth a file
        walls=rng.random() < 0.8,
    )


def _arrival(rng: random.Random, world: World, number: int, step: int, spread: float) -> Arrival:
    longest = world.n_ctx - len(START) - 1
    shared = rng.choice([0, rng.randrange(longest), longest // 2])
    own = rng.randint(1, max(1, min(longest - shared, rng.choice([2, 20, longest]))))
    leaving: Leaving = ""
    if rng.random() < spread:
        leaving = rng.choice(["at once", "between batches", "between batches", "in a batch", "after chunks", "vanish"])
    return Arrival(
        step=step,
        key=rng.choice("ab"),
        family=rng.randrange(_FAMILIES),
        shared=min(shared, longest - own),
        own=own,
        seed=number,
        max_tokens=rng.choice([1, 1, 3, 10, 30, world.n_ctx]),
        n=rng.choice([1, 1, 1, 1, 2, 3]),
        sampling=_sampling(rng, number),
        stop=("".join(rng.choices("ABCDEFGH", k=2)),) if rng.random() < 0.1 else (),
        continues=rng.randrange(number) if number and rng.random() < 0.3 else -1,
        leaving=leaving,
        after=rng.randrange(rng.choice([2, 5, 20])),
    )


def _sampling(rng: random.Random, seed: int) -> SamplingParams:
    if rng.random() < 0.7:
        return SamplingParams(0)
    top_k, top_p = rng.choice([0, 5]), rng.choice([0.8, 1.0])
    return SamplingParams(rng.choice([0.5, 1.5]), top_p, seed=seed, top_k=top_k, repetition_penalty=1.1)


def _repeated(rng: random.Random, arrivals: list[Arrival], step: int) -> Arrival | None:
    """Now and then a client asks again what was asked before, and does not leave."""
    if not arrivals or rng.random() > 0.1:
        return None
    again = rng.choice(arrivals[-20:])
    return Arrival(**{**again.__dict__, "step": step, "leaving": ""})


@lru_cache(maxsize=4096)
def _drawn(name: str, n: int) -> tuple[int, ...]:
    return tuple(random.Random(name).choices(range(FIRST_TEXT, N_VOCAB), k=n))


def _tokens(name: str, n: int) -> list[int]:
    """The first n tokens of that name, the same for every n."""
    return list(_drawn(name, -(-n // 1024) * 1024)[:n])
