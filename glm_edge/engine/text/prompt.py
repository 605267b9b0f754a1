"""Messages to ChatGLM2's prompt text: pure, no tokens.

The official format (`build_prompt` of the checkpoint's modeling code) is plain text. A user who types "[Round 2]"
writes into it, and nothing in the format can prevent that. Control tokens are never in the text: `tokenizer.py` puts
their ids in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from ...errors import RequestError
from ...types import Message


def rounds(messages: Sequence[Message]) -> tuple[tuple[tuple[str, str], ...], str]:
    """Split a conversation into past rounds (question, answer) and the open question.

    Neighbouring messages of one role are joined by a line break. System messages go in front of the first question,
    with an empty line between: so the prefix stays the same from round to round. An answer without a question, as in
    a conversation that the assistant opens, gets an empty question.

    Raises RequestError when the last message is not the user's.
    """
    system = "\n".join(m.content for m in messages if m.role == "system")
    turns = [
        (role, "\n".join(m.content for m in group))
        for role, group in groupby((m for m in messages if m.role != "system"), key=lambda m: m.role)
    ]
    if not turns or turns[-1][0] != "user":
        raise RequestError("the last message must be the user's", param="messages", code="invalid_value")
    if turns[0][0] == "assistant":
        turns.insert(0, ("user", ""))
    if system:
        turns[0] = ("user", f"{system}\n\n{turns[0][1]}" if turns[0][1] else system)
    texts = [text for _, text in turns]
    return tuple(zip(texts[0:-1:2], texts[1::2], strict=True)), texts[-1]


def conversation_text(messages: Sequence[Message]) -> str:
    """ChatGLM2's prompt for a conversation. One whose last messages are the assistant's ends with their text, which the
    answer continues.

    Raises RequestError as `rounds` does.
    """
    end = len(messages)
    while end and messages[end - 1].role == "assistant":
        end -= 1
    begun = "\n".join(message.content for message in messages[end:])
    return prompt_text(*rounds(messages[:end] or [Message("user", "")])) + begun


def prompt_text(history: Sequence[tuple[str, str]], question: str) -> str:
    """ChatGLM2's prompt for past rounds and an open question, without the control tokens in front."""
    past = "".join(f"[Round {n}]\n\n问：{q}\n\n答：{a}\n\n" for n, (q, a) in enumerate(history, 1))
    return f"{past}[Round {len(history) + 1}]\n\n问：{question}\n\n答："
