"""The embedded chat template gives the official prompt, in Jinja as other programs set it up."""

from __future__ import annotations

import random
from typing import Any, get_args

import jinja2
import jinja2.sandbox
import pytest

from glm_edge.convert.tokenizer.template import chat_template
from glm_edge.engine.text.prompt import prompt_text, rounds
from glm_edge.types import Message, Role

PREFIX = "[gMASK]<sop>"
ENVIRONMENTS = {
    "plain": jinja2.Environment(),
    # as transformers does
    "trimmed": jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True),
}


@pytest.fixture(params=ENVIRONMENTS.values(), ids=ENVIRONMENTS.keys())
def template(request: pytest.FixtureRequest) -> jinja2.Template:
    environment: jinja2.Environment = request.param
    return environment.from_string(chat_template(PREFIX))


def conversation(*turns: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


def test_any_conversation_gives_the_runtimes_own_prompt(template: jinja2.Template) -> None:
    draw = random.Random(11)
    contents = ["", "a", "b c", "\n", "你好 \"quoted\" 'x'", "{{ messages }}", "{% raw %}", "[Round 1]", PREFIX, "\\n"]
    for _ in range(500):
        turns = [(draw.choice(get_args(Role)), draw.choice(contents)) for _ in range(draw.randrange(7))]
        turns.append(("user", draw.choice(contents)))
        expected = prompt_text(*rounds([Message(role, content) for role, content in turns]))
        assert template.render(messages=conversation(*turns), add_generation_prompt=True) == PREFIX + expected, turns


def test_a_system_message_goes_in_front_of_the_first_question(template: jinja2.Template) -> None:
    messages = conversation(("user", "q1"), ("assistant", "a1"), ("system", "be brief"), ("user", "q2"))
    expected = "[Round 1]\n\n问：be brief\n\nq1\n\n答：a1\n\n[Round 2]\n\n问：q2\n\n答："
    assert template.render(messages=messages, add_generation_prompt=True) == PREFIX + expected


def test_an_answer_at_the_end_can_be_continued(template: jinja2.Template) -> None:
    messages = conversation(("user", "q1"), ("assistant", "so"))
    assert template.render(messages=messages, add_generation_prompt=False) == PREFIX + "[Round 1]\n\n问：q1\n\n答：so"


def test_content_that_is_absent_counts_as_empty(template: jinja2.Template) -> None:
    messages = [*conversation(("user", "q1")), {"role": "assistant", "content": None}, *conversation(("user", "q2"))]
    expected = "[Round 1]\n\n问：q1\n\n答：\n\n[Round 2]\n\n问：q2\n\n答："
    assert template.render(messages=messages, add_generation_prompt=True) == PREFIX + expected


def test_no_integer_division_which_llama_cpp_has_not() -> None:
    assert "//" not in chat_template(PREFIX)
    assert "loop" not in chat_template(PREFIX)


@pytest.mark.parametrize("prefix", ["it's", "back\\slash", "<|x|>"])
def test_the_prefix_comes_out_as_it_is(prefix: str) -> None:
    text = jinja2.Environment().from_string(chat_template(prefix)).render(messages=conversation(("user", "q")))
    assert text == f"{prefix}[Round 1]\n\n问：q\n\n答："
