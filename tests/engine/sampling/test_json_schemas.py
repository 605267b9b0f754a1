"""The battery of JSON schemas: each works, and finished answers match it, or is refused by its path."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from glm_edge.errors import RequestError
from glm_edge.llama.model import Model
from support.engines.json_schemas import HOSTILE, REFUSED, WORKING
from support.engines.random_answers import RandomAnswers


@pytest.fixture(scope="module")
def answers(demo_file: Path) -> RandomAnswers:
    return RandomAnswers(Model(demo_file, vocab_only=True))


@pytest.mark.parametrize("schema", WORKING.values(), ids=WORKING)
def test_finished_answers_match_the_schema(answers: RandomAnswers, schema: Any) -> None:
    texts = [text for seed in range(6) if (text := answers.write(schema, seed)) is not None]
    assert texts, "no answer ended within the limit"
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    for text in texts:
        validator.validate(json.loads(text))


@pytest.mark.parametrize(("schema", "named"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_kept_is_refused_with_its_path(answers: RandomAnswers, schema: Any, named: str) -> None:
    with pytest.raises(RequestError, match=r"^response_format: the schema\b") as caught:
        answers.write(schema, 0)
    assert named in str(caught.value)
    assert caught.value.param == "response_format"
    assert len(str(caught.value)) < 320


@pytest.mark.parametrize("schema", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_schema_costs_a_bounded_time(answers: RandomAnswers, schema: Any) -> None:
    began = time.process_time()
    with suppress(RequestError):
        answers.write(schema, 0, max_tokens=60)
    assert time.process_time() - began < 3
