"""What the end of an answer proves about its prompt, and what each call learns when the engine dies."""

from __future__ import annotations

import pytest

from glm_edge.errors import EngineDiedError, LoadingError, RepeatedCrashError
from glm_edge.generation import Generation
from glm_edge.types import Chunk
from glm_edge.worker.calls import OpenCall, OpenCalls
from glm_edge.worker.crash_quarantine import CrashQuarantine
from glm_edge.worker.messages import Call, Item


@pytest.mark.case("N3")
@pytest.mark.parametrize("cancelled", [True, False])
def test_an_answer_that_its_reader_cancelled_leaves_its_prompt_under_suspicion(cancelled: bool) -> None:
    quarantine = CrashQuarantine()
    for _ in range(3):
        quarantine.record_crash([b"x"])
    calls = OpenCalls(quarantine)
    sent: list[object] = []
    calls.start(sent.append)
    generation: Generation[Chunk] = Generation()
    assert calls.enter(OpenCall(Call(1, "submit", None), generation=generation, prompt=b"x"))
    if cancelled:
        generation.cancel()
    assert calls.pass_on(Item(1, None)) is not cancelled
    assert quarantine.is_suspect(b"x") is cancelled
    assert generation.get(0) is None


def test_a_call_that_was_not_sent_learns_when_the_engine_will_be_back() -> None:
    quarantine = CrashQuarantine()
    for _ in range(3):
        quarantine.record_crash([b"x"])
    calls = OpenCalls(quarantine)
    calls.start(lambda message: None)
    generations: list[Generation[Chunk]] = [Generation(), Generation()]
    for id, generation in enumerate(generations):  # the first runs alone, the other waits for its turn
        assert calls.enter(OpenCall(Call(id, "submit", None), generation=generation, prompt=b"x"))
    calls.lose("why", back_in=7.5, closed=False)
    with pytest.raises(EngineDiedError, match="the engine died: why"):
        generations[0].get(0)
    with pytest.raises(LoadingError) as caught:
        generations[1].get(0)
    assert caught.value.retry_after == 7.5


@pytest.mark.case("N3")
@pytest.mark.parametrize("beside", [True, False], ids=["beside", "alone"])
def test_a_death_while_a_text_is_tokenized_too_is_explained_by_no_prompt_alone(beside: bool) -> None:
    quarantine = CrashQuarantine()
    calls = OpenCalls(quarantine)
    for _ in range(3):
        calls.start(lambda message: None)
        generation: Generation[Chunk] = Generation()
        assert calls.enter(OpenCall(Call(1, "submit", None), generation=generation, prompt=b"x"))
        tokenized = OpenCall(Call(2, "tokenize", "x"))
        if beside:
            assert calls.enter(tokenized)
        calls.lose("why", closed=False)
    if beside:
        quarantine.check(b"x")
    else:
        with pytest.raises(RepeatedCrashError):
            quarantine.check(b"x")


@pytest.mark.case("N3")
def test_a_text_is_not_tokenized_beside_a_suspect() -> None:
    quarantine = CrashQuarantine()
    for _ in range(3):
        quarantine.record_crash([b"x", b"y"])
    calls = OpenCalls(quarantine)
    sent: list[object] = []
    calls.start(sent.append)
    suspect, text = Call(1, "submit", None), Call(2, "tokenize", "x")
    assert calls.enter(OpenCall(suspect, generation=Generation(), prompt=b"x"))
    assert calls.enter(OpenCall(text))
    assert sent == [suspect]
    calls.pass_on(Item(1, None))
    assert sent == [suspect, text]
