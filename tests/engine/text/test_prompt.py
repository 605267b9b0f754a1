"""Messages to ChatGLM2's prompt: the official texts, and what the API adds to them."""

import pytest

from glm_edge.engine.text.prompt import conversation_text, prompt_text, rounds
from glm_edge.errors import RequestError
from glm_edge.types import Message


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)


def system(text: str) -> Message:
    return Message("system", text)


@pytest.mark.parametrize(
    ("messages", "past", "question"),
    [
        pytest.param([user("a")], (), "a", id="one question"),
        pytest.param([user("a"), assistant("b"), user("c")], (("a", "b"),), "c", id="a round and a question"),
        pytest.param([system("s"), user("a")], (), "s\n\na", id="system before the only question"),
        pytest.param(
            [system("s"), user("a"), assistant("b"), user("c")],
            (("s\n\na", "b"),),
            "c",
            id="system before the first question, so the prefix stays",
        ),
        pytest.param([user("a"), system("s"), user("b")], (), "s\n\na\nb", id="system in the middle goes first"),
        pytest.param([user("a"), user("b")], (), "a\nb", id="neighbours of one role joined"),
        pytest.param(
            [user("a"), assistant("b"), assistant("c"), user("d")], (("a", "b\nc"),), "d", id="two answers joined"
        ),
        pytest.param([assistant("b"), user("c")], (("", "b"),), "c", id="an opening answer has an empty question"),
        pytest.param([user("")], (), "", id="empty question"),
    ],
)
def test_rounds(messages: list[Message], past: tuple[tuple[str, str], ...], question: str) -> None:
    assert rounds(messages) == (past, question)


@pytest.mark.parametrize(
    "messages", [[], [system("s")], [user("a"), assistant("b")]], ids=["none", "system only", "answer last"]
)
def test_last_message_must_be_the_users(messages: list[Message]) -> None:
    with pytest.raises(RequestError, match="last message must be the user's"):
        rounds(messages)


def test_adding_a_round_keeps_the_prefix() -> None:
    first = [system("s"), user("a")]
    then = [*first, assistant("b"), user("c")]
    assert prompt_text(*rounds(then)).startswith(prompt_text(*rounds(first)))


def test_a_conversation_that_ends_with_the_assistant_is_open_behind_its_text() -> None:
    open_ = [system("s"), user("a")]
    assert conversation_text([*open_, assistant("b "), assistant("c")]) == conversation_text(open_) + "b \nc"
    assert conversation_text([assistant("b")]) == "[Round 1]\n\n问：\n\n答：b"
