"""A llama.cpp of our own, for the simulation: the rules of its KV cache, a model that reads it, and faults on demand.

The rules are those of llama.cpp 0c1e57098 (`llama-batch.cpp`, `llama-kv-cache.cpp`) with one unified cache. Where
llama.cpp refuses, and where it would compute nonsense without a word, RuleBroken is raised: a mistake of ours.

A cell's value is a hash of all tokens before it, as it was when the cell was computed, and logits are a function of the
last cell's value. So text changes when cells, positions or sequences are mixed up. Not here: numbers of a real model.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from glm_edge.errors import EngineError

FaultKind = Literal["full", "aborted", "error", "slow", "nan", "nan everywhere", "state fails", "restore refused"]

N_VOCAB = 40
EOS = 2
FIRST_TEXT = 4  # the first token with bytes
_ROWS = 4093  # different logits
_LIKELY = 2.5  # what the usual successor of a token is ahead by: answers repeat themselves, as lookup needs
_SLOW = 40  # times as long


class RuleBroken(AssertionError):
    """The engine asked for what llama.cpp refuses, or for what it would do wrongly without a word."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong in one step.

    Args:
        part: 0 to 1; of an aborted batch, the tokens that stay in the cache; of NaN, which output has it; of a state
            that fails, whether llama.cpp gives too little or there is no memory for it.
    """

    kind: FaultKind
    part: float = 0.0


class Clock:
    """Seconds that pass only when the fake says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeModel:
    """Logits as a function of a hash of the prefix, and a vocabulary of single characters."""

    def __init__(self) -> None:
        rng = np.random.default_rng(12)
        self.n_vocab = N_VOCAB
        self.eos = EOS
        self._rows = rng.normal(size=(_ROWS, N_VOCAB)).astype(np.float32)
        self._rows[:, :FIRST_TEXT] = -50
        self._rows[rng.random(_ROWS) < 0.03, EOS] = 50
        self._successor = rng.permutation(np.arange(FIRST_TEXT, N_VOCAB))

    def piece(self, token: int) -> bytes:
        """Control tokens have no bytes."""
        return b"" if token < FIRST_TEXT else bytes([ord("A") + token - FIRST_TEXT])

    def value(self, before: int, token: int, position: int) -> int:
        """Of the cell of `token`, after a cell of the value `before`; 0 where there is none."""
        return hash((before, token, position))

    def logits(self, value: int, token: int) -> npt.NDArray[np.float32]:
        """Shape (n_vocab,), after the cell of `token` with this value."""
        row: npt.NDArray[np.float32] = self._rows[value % _ROWS].copy()
        if token >= FIRST_TEXT:
            row[self._successor[token - FIRST_TEXT]] += _LIKELY
        return row


class FakeBatch:
    """Tokens of one decode call: (token, position, sequence, whether logits are wanted)."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.rows: list[tuple[int, int, int, bool]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def clear(self) -> None:
        self.rows.clear()

    def add(self, token: int, position: int, sequence: int, *, logits: bool) -> int:
        if len(self.rows) >= self.capacity:
            raise RuleBroken(f"batch is full at {self.capacity} tokens")
        self.rows.append((token, position, sequence, logits))
        return len(self.rows) - 1


class Cell:
    """One cell of the cache; its position is where it stands in the sequences that own it."""

    __slots__ = ("owners", "token", "value")

    def __init__(self, token: int, value: int) -> None:
        self.token = token
        self.value = value
        self.owners = 0


class FakeContext:
    """A unified KV cache of `n_ctx` cells for `n_sequences` sequences, and one more for states on their way.

    Args:
        n_outputs: tokens of one batch whose logits may be asked for.
        token_s: seconds by `clock` that a token takes; a batch takes that of two more.
        during: called in the middle of every batch; returns whether to abort it.
    """

    def __init__(
        self,
        model: FakeModel,
        clock: Clock,
        *,
        n_ctx: int,
        n_sequences: int,
        n_outputs: int,
        token_s: float,
        during: Callable[[], bool],
    ) -> None:
        self.n_ctx = n_ctx
        self.n_sequences = n_sequences
        self.used = 0  # cells
        self.fault: Fault | None = None  # of the next call that it concerns
        self.happened: list[str] = []  # faults, states saved and restored, batches that were not done
        self._model = model
        self._clock = clock
        self._spare = n_sequences
        self._sequences: list[list[Cell]] = [[] for _ in range(n_sequences + 1)]
        self._n_outputs = n_outputs
        self._token_s = token_s
        self._during = during
        self._outputs: dict[int, tuple[int, int] | None] = {}  # index in the batch: value and token, None is NaN

    def tokens(self, sequence: int) -> list[int]:
        """What the cache holds of a sequence."""
        return [cell.token for cell in self._sequences[sequence]]

    @property
    def spare_is_empty(self) -> bool:
        return not self._sequences[self._spare]

    def owned(self) -> int:
        """Cells that some sequence owns, counted anew."""
        return len({id(cell) for sequence in self._sequences for cell in sequence})

    def decode(self, batch: FakeBatch) -> Literal["done", "full", "aborted"]:
        self._check(batch)
        self._outputs.clear()
        slow = _SLOW if self._faulty("slow") else 1
        if self._faulty("full") or self.used + len(batch) > self.n_ctx:
            self.happened.append("no cells")
            return "full"
        self._clock.now += (len(batch) + 2) * self._token_s * slow
        stop = self._during()
        if self._faulty("error"):
            raise EngineError("the simulated llama.cpp failed to decode a batch")
        left = self.fault.part if self.fault is not None else (self._clock.now * 1e3) % 1
        if self._faulty("aborted") or stop:
            self._compute(batch, int(left * (len(batch) + 1)))
            self._outputs.clear()
            self.happened.append("batch aborted")
            return "aborted"
        self._compute(batch, len(batch))
        if self._outputs and self._faulty("nan"):
            chosen = list(self._outputs)[int(left * len(self._outputs))]
            self._outputs[chosen] = None
        if self._outputs and self._faulty("nan everywhere"):
            self._outputs = dict.fromkeys(self._outputs)
        return "done"

    def logits(self, index: int) -> npt.NDArray[np.float32]:
        if index not in self._outputs:
            raise RuleBroken(f"no logits were asked for at token {index} of the batch")
        output = self._outputs[index]
        if output is None:
            return np.full(N_VOCAB, np.nan, np.float32)
        return self._model.logits(*output)

    def gives_numbers(self, batch: FakeBatch, token: int) -> bool:
        """Its weights do; an answer's logits that are none are a fault of their own."""
        return True

    def remove(self, sequence: int, start: int = 0, end: int = -1) -> None:
        cells = self._sequences[sequence]
        if 0 <= end < len(cells):
            raise RuleBroken(f"positions {start}..{end} are taken out of the middle of {len(cells)}")
        for cell in cells[start:]:
            self._let_go(cell)
        del cells[start:]

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        taken, cells = self._sequences[source], self._sequences[target]
        if not 0 <= start < end <= len(taken):
            raise RuleBroken(f"positions {start}..{end} are copied of a sequence that has {len(taken)}")
        if len(cells) != start or source == target:
            raise RuleBroken(f"positions {start}..{end} are copied to a sequence that has {len(cells)}")
        for cell in taken[start:end]:
            cell.owners += 1
        cells += taken[start:end]

    def state(self, sequence: int, start: int, end: int) -> memoryview:
        cells = self._sequences[sequence]
        if not 0 <= start < end <= len(cells):
            raise RuleBroken(f"the state of {start}..{end} is taken of a sequence that has {len(cells)}")
        left = self.fault.part if self.fault is not None else 0.0
        if self._faulty("state fails"):
            raise MemoryError if left < 0.5 else EngineError("the simulated llama.cpp gave too few bytes of state")
        numbers = array("q", [start])
        for cell in cells[start:end]:
            numbers.extend((cell.token, cell.value))
        self.happened.append("state saved")
        return memoryview(numbers).cast("B")

    def restore(self, sequence: int, state: memoryview, start: int, end: int) -> bool:
        numbers = state.cast("q")
        first, n = numbers[0], (len(numbers) - 1) // 2
        cells = self._sequences[sequence]
        if not first <= start < end <= first + n or len(cells) != start:
            raise RuleBroken(f"{start}..{end} of {n} tokens from {first} on go to a sequence that has {len(cells)}")
        if self._faulty("restore refused") or self.used + n > self.n_ctx:
            self.happened.append("state does not go in")
            return False
        for i in range(start - first, end - first):
            self._append(cells, Cell(numbers[1 + 2 * i], numbers[2 + 2 * i]))
        self.happened.append("state restored")
        return True

    def _check(self, batch: FakeBatch) -> None:
        if not 0 < len(batch) <= batch.capacity:
            raise RuleBroken(f"a batch of {len(batch)} tokens")
        ends: dict[int, int] = {}
        for token, position, sequence, _ in batch.rows:
            if not 0 <= token < N_VOCAB or not 0 <= sequence < self._spare:
                raise RuleBroken(f"token {token} of sequence {sequence}")
            expected = ends.get(sequence, len(self._sequences[sequence]))
            if position != expected:
                raise RuleBroken(f"position {position} of sequence {sequence}, whose next is {expected}")
            ends[sequence] = expected + 1
        if sum(row[3] for row in batch.rows) > self._n_outputs:
            raise RuleBroken(f"more logits than {self._n_outputs}")

    def _compute(self, batch: FakeBatch, n: int) -> None:
        """The first n tokens of the batch."""
        for i, (token, position, sequence, wanted) in enumerate(batch.rows[:n]):
            cells = self._sequences[sequence]
            cell = Cell(token, self._model.value(cells[-1].value if cells else 0, token, position))
            self._append(cells, cell)
            if wanted:
                self._outputs[i] = cell.value, token

    def _append(self, cells: list[Cell], cell: Cell) -> None:
        cell.owners += 1
        cells.append(cell)
        self.used += 1

    def _let_go(self, cell: Cell) -> None:
        cell.owners -= 1
        self.used -= not cell.owners

    def _faulty(self, kind: FaultKind) -> bool:
        """Whether this fault is due; it happens once."""
        if self.fault is None or self.fault.kind != kind:
            return False
        self.fault = None
        self.happened.append(kind)
        return True
