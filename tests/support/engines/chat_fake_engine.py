"""A program for tests: the terminal chat on a fake engine, which repeats the question.

A question with "endless" is answered until it is stopped. The argument is the history's file, or nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from glm_edge.cli.chat import command, settings
from glm_edge.cli.run import run
from glm_edge.cli.terminal.conversation import Conversation
from glm_edge.cli.terminal.input_line import input_line
from glm_edge.cli.terminal.talk import Talk
from glm_edge.types import Request, SamplingParams
from support.engines.fake_engine import FakeEngine, Step


def _answer(request: Request) -> Iterator[Step]:
    question = request.messages[-1].content
    if "endless" in question:
        yield "it begins"
        while not ENGINE.generations[-1].cancelled:
            time.sleep(0.01)  # polls, as the fake engine itself does
    else:
        yield f"<{question.replace(chr(10), '|')}>"


ENGINE = FakeEngine(_answer)  # type: ignore[arg-type]


def main(arguments: list[str]) -> int:
    import click

    @click.command()
    def chat() -> None:
        talk = Talk(Conversation(ENGINE, None, SamplingParams(), None), settings(command))
        talk.run(input_line(talk.complete, Path(arguments[0]) if arguments else None))

    return run(chat, [], prog_name="chat")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
