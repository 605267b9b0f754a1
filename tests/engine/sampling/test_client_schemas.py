"""The field types of pydantic and zod: which are followed, and that what chance writes by them is valid."""

from __future__ import annotations

import datetime
import decimal
import enum
import ipaddress
import json
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import pytest
from jsonschema import Draft202012Validator

from glm_edge.errors import RequestError
from glm_edge.llama.model import Model
from support.engines.random_answers import RandomAnswers
from support.paths import SUPPORT

# as zod 4.6.7 writes them: z.toJSONSchema(z.object({f: …}))
ZOD: dict[str, Any] = json.loads((SUPPORT / "engines" / "zod_schemas.json").read_text("utf-8"))


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Inner(pydantic.BaseModel):
    x: int


class Tree(pydantic.BaseModel):
    value: int
    more: Tree | None


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    name: str


PYDANTIC: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "none": None,
    "optional": int | None,
    "union": int | str,
    "literal": Literal["a", 1],
    "enum": Color,
    "list": list[int],
    "dict": dict[str, int],
    "tuple": tuple[int, str],
    "tuple-of-any-length": tuple[int, ...],
    "set": set[int],
    "frozenset": frozenset[str],
    "model": Inner,
    "recursive": Tree,
    "discriminated": Annotated[Cat | Dog, pydantic.Field(discriminator="kind")],
    "datetime": datetime.datetime,
    "date": datetime.date,
    "time": datetime.time,
    "timedelta": datetime.timedelta,
    "decimal": decimal.Decimal,
    "uuid": uuid.UUID,
    "uuid4": pydantic.UUID4,
    "bytes": bytes,
    "url": pydantic.AnyUrl,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "path": Path,
    "constrained-int": Annotated[int, pydantic.Field(ge=1, le=90, multiple_of=3)],
    "constrained-str": Annotated[str, pydantic.Field(pattern="^[a-f]+$", max_length=5)],
}
REFUSED = {"set": "uniqueItems", "frozenset": "uniqueItems", "emoji": "pattern"}
# a grammar has no calendar: 31 February has the form of a date, and by a Decimal's schema any text has its
FORM_ONLY = {"decimal", "datetime", "date", "time", "timedelta", "url"}


@pytest.fixture(scope="module")
def answers(demo_file: Path) -> RandomAnswers:
    return RandomAnswers(Model(demo_file, vocab_only=True))


def test_the_batteries_are_whole() -> None:
    assert (len(PYDANTIC), len(set(PYDANTIC) - set(REFUSED))) == (32, 30)
    assert (len(ZOD), len(set(ZOD) - set(REFUSED))) == (28, 27)


@pytest.mark.parametrize("name", PYDANTIC)
def test_a_type_of_pydantics_is_followed(answers: RandomAnswers, name: str) -> None:
    model = pydantic.create_model("M", f=(PYDANTIC[name], ...))
    schema = model.model_json_schema()
    if name in REFUSED:
        with pytest.raises(RequestError, match=REFUSED[name]):
            answers.compile(schema)
        return
    for seed in range(3):
        written = answers.write(schema, seed, 120)
        if written is not None:
            Draft202012Validator(schema).validate(json.loads(written))
            if name not in FORM_ONLY:
                model.model_validate_json(written)


@pytest.mark.parametrize("name", ZOD)
def test_a_type_of_zods_is_followed(answers: RandomAnswers, name: str) -> None:
    if name in REFUSED:
        with pytest.raises(RequestError, match=REFUSED[name]):
            answers.compile(ZOD[name])
        return
    for seed in range(3):
        written = answers.write(ZOD[name], seed, 120)
        if written is not None:
            json.loads(written)
            assert not list(_faults(ZOD[name], json.loads(written)))


def _faults(schema: Any, value: Any) -> Any:
    """What jsonschema says, but for patterns that the format beside them stands for."""
    return (error for error in Draft202012Validator(schema).iter_errors(value) if error.validator != "pattern")
