"""How a call of a tool is written as text: in prompts, in answers, and in the grammar that answers follow. Pure.

ChatGLM2 was not trained to call tools and has no tokens for it (ChatGLM3 has). So tools are described in words, where
system messages go, and a call is an answer of one JSON object, {"name": "…", "arguments": {…}}, the form that
instruction-following models see most. The result of a call is the next question.
"""

from __future__ import annotations

from collections.abc import Iterable

LONGEST_HEAD = 120  # characters; a name has 64 at most

_INTRODUCTION = (
    "You can call one of the functions below. To call one, answer with nothing but"
    ' {"name": "the function", "arguments": {its arguments}}. If you need none of them, answer as usual.'
)


def head_pattern(names: Iterable[str]) -> str:
    """What a call of one of `names` begins with, as a regular expression for Python and llguidance alike."""
    return f'\\{{[ \\n]?"name" ?: ?"({"|".join(names)})" ?,[ \\n]? ?"arguments" ?: ?'


def call_text(name: str, arguments: str) -> str:
    """A call as an answer has it; `arguments` are JSON."""
    return f'{{"name": "{name}", "arguments": {arguments}}}'


def result_text(name: str | None, content: str) -> str:
    """What a call gave, as the next question."""
    return f"Result of {name}: {content}" if name else f"Result: {content}"


def tools_text(tools: Iterable[tuple[str, str, str]]) -> str:
    """A system message that describes tools: (name, description, JSON Schema of the arguments) of each."""
    lines = (
        f"- {name}{': ' * bool(description)}{description}\n  Arguments: {schema}" for name, description, schema in tools
    )
    return "\n".join([_INTRODUCTION, *lines])
