"""A simulated client: what it was given, and whether that is what it would have got alone."""

from __future__ import annotations

from collections.abc import Sequence

from glm_edge.engine.sampling.sampler import Sampler
from glm_edge.engine.sequence import Sequence as Answer
from glm_edge.engine.text.detokenizer import AnswerText
from glm_edge.errors import GlmEdgeError
from glm_edge.generation import Generation
from glm_edge.types import Chunk, Stats

from .fake_llama import FakeModel
from .plan import Arrival


class Violation(AssertionError):
    """An invariant does not hold; `kind` names which."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


class Client:
    """One client from its request to the end of its answers.

    Args:
        prompt: token ids.
        limit: tokens that each answer may have.
        step: when it came.
    """

    def __init__(self, arrival: Arrival, prompt: Sequence[int], limit: int, step: int) -> None:
        self.arrival = arrival
        self.prompt = list(prompt)
        self.limit = limit
        self.step = step
        self.generation: Generation[Chunk]
        self.answers: list[Answer] = []
        self.texts = [""] * arrival.n
        self.lasts: list[Chunk | None] = [None] * arrival.n
        self.chunks = 0
        self.cancelled = False
        self.overtaken = 0  # clients that came later and were begun before
        self.preempted = False
        self.ended = False
        self.error: GlmEdgeError | None = None

    def __repr__(self) -> str:
        return f"client {self.arrival.seed} of step {self.step}"

    @property
    def started(self) -> bool:
        return any(answer.started for answer in self.answers)

    def take(self, item: Chunk | GlmEdgeError | None) -> None:
        """What the engine gave: a chunk, or the end."""
        if self.ended:
            raise Violation("something after the end", f"{self} got {item!r}")
        if item is None or isinstance(item, GlmEdgeError):
            self.ended, self.error = True, item
            if item is None and None in self.lasts:
                raise Violation("an end before the answers' ends", repr(self))
            return
        if self.lasts[item.index] is not None:
            raise Violation("an answer ended twice", f"{self}, answer {item.index} got {item!r}")
        self.chunks += 1
        self.texts[item.index] += item.text
        if item.finish_reason is not None:
            self.lasts[item.index] = item

    def read_queue(self) -> None:
        """Read all at once, as one who looked away does."""
        while not self.ended:
            try:
                self.take(self.generation.get(timeout=0))
            except GlmEdgeError as error:
                self.take(error)
            except TimeoutError:
                raise Violation("an answer without an end", repr(self)) from None


def check_texts(client: Client, model: FakeModel) -> None:
    """Every answer of a client is what it would have got alone, as far as it was given."""
    for index in range(client.arrival.n):
        text, reason, stats = client.texts[index], None, None
        if (last := client.lasts[index]) is not None:
            reason, stats = last.finish_reason, last.stats
        tokens, alone = answer_alone(client, index, model)
        expected, expected_reason = text_of(client, tokens, alone, model)
        if reason == "cancelled" and stats is not None:
            expected, expected_reason = text_of(client, tokens[: stats.completion_tokens], "cancelled", model)
        if reason is None:
            expected, expected_reason = expected[: len(text)], None
        if (text, reason) != (expected, expected_reason):
            raise Violation(
                "not the text of a single run",
                f"{client}, answer {index} is {text!r} ({reason}), alone {expected!r} ({expected_reason})",
            )
        if stats is not None:
            _check_counts(client, stats)


def _check_counts(client: Client, stats: Stats) -> None:
    if not (
        0 <= stats.cached_tokens < stats.prompt_tokens == len(client.prompt)
        and 0 <= stats.completion_tokens <= client.limit
        and 0 <= stats.accepted_tokens <= stats.drafted_tokens
        and min(stats.queue_s, stats.prefill_s, stats.decode_s) >= 0
    ):
        raise Violation("counts that cannot be", f"{client}: {stats}")


def answer_alone(client: Client, index: int, model: FakeModel) -> tuple[list[int], str]:
    """(tokens, reason) of an answer that nobody shares anything with: straight from the model and a new sampler."""
    sampler = Sampler(client.arrival.sampling, index, client.prompt)
    value, position, token = 0, 0, 0
    for position, token in enumerate(client.prompt):
        value = model.value(value, token, position)
    tokens: list[int] = []
    while len(tokens) < client.limit:
        token = sampler.sample(model.logits(value, token))
        if token == model.eos:
            return tokens, "stop"
        sampler.accept(token)
        tokens.append(token)
        position += 1
        value = model.value(value, token, position)
    return tokens, "length"


def text_of(client: Client, tokens: Sequence[int], reason: str, model: FakeModel) -> tuple[str, str]:
    """The text that a reader gets of these tokens, and the reason, which a stop string may change."""
    text = AnswerText(client.arrival.stop)
    shown = ""
    for token in tokens:
        shown += text.feed(model.piece(token))
        if text.stopped:
            return shown, "stop"
    return shown + text.end(complete=reason == "stop"), reason
