"""GBNF, llama.cpp's notation for grammars: JSON's own rules, and how rules of ours are written and bounded.

A reader of a grammar keeps every way in which the text so far can be meant. With rules from a stranger these ways may
double with each character, in native code that cannot be stopped. So the most ways that there can be at once are
counted before llama.cpp sees the rules, and a grammar with too many of them is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import RequestError

MOST_WAYS = 500

# White space is bounded, so that no answer can run away in it. Strings hold neither raw control characters nor halves
# of surrogate pairs, so that every answer is good JSON and good Unicode.
_JSON = r"""
ws ::= ( " " | "\n" [ \t]{0,20} )?
hex ::= [0-9a-fA-F]
char ::= [^"\\\x00-\x1F\x7F] | "\\" ( ["\\/bfnrt] | "u" ( [0-9a-cA-CefEF] hex | [dD] [0-7] ) hex hex )
string ::= "\"" char* "\""
whole ::= "-"? ( "0" | [1-9] [0-9]{0,15} )
number ::= whole ( "." [0-9]{1,16} )? ( [eE] [-+]? [0-9]{1,2} )?
boolean ::= "true" | "false"
null ::= "null"
value ::= object | array | string | number | boolean | null
member ::= string ws ":" ws value
object ::= "{" ws ( member ( ws "," ws member )* ws )? "}"
array ::= "[" ws ( value ( ws "," ws value )* ws )? "]"
"""
NUMBER_STARTS = frozenset("-0123456789")
STARTS = {
    "string": frozenset('"'),
    "whole": NUMBER_STARTS,
    "number": NUMBER_STARTS,
    "boolean": frozenset("tf"),
    "null": frozenset("n"),
    "object": frozenset("{"),
    "array": frozenset("["),
    "value": frozenset('"tfn{[') | NUMBER_STARTS,
}
"""What texts of JSON's own rules begin with."""


@dataclass(frozen=True)
class Rule:
    """One rule and what is needed to count its ways.

    Args:
        parts: rules of values inside it; of these one is read at a time.
        choice: it is nothing but a choice of its parts.
        starts: characters that it can begin with; of a choice, they follow from its parts.
        ways: in which its own text can be meant at once, without its parts.
    """

    text: str
    parts: tuple[str, ...] = ()
    choice: bool = False
    starts: frozenset[str] = frozenset()
    ways: int = 1


def json_object_grammar() -> str:
    """Any one JSON object."""
    return f'root ::= " "? object\n{_JSON}'


def grammar(rules: dict[str, Rule], root: str) -> str:
    """The grammar of `rules` beside JSON's own, whose answers are what the rule `root` says.

    Raises RequestError when the answers can be meant in too many ways at once.
    """
    _check_ways(rules)
    lines = "\n".join(f"{name} ::= {rule.text}" for name, rule in rules.items())
    return f'root ::= " "? {root}\n{_JSON}{lines}\n'


def choice(names: Sequence[str]) -> Rule:
    """One of several rules; the same one twice counts once."""
    different = tuple(dict.fromkeys(names))
    return Rule(" | ".join(different), different, choice=True)


def literal(value: Any) -> str:
    """The JSON text of a value as GBNF, exactly as `json.dumps` writes it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if any("\ud800" <= c <= "\udfff" for c in text):
        text = json.dumps(value, allow_nan=False)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _check_ways(rules: dict[str, Rule]) -> None:
    """Raise unless all counts stay within MOST_WAYS.

    `units` are the ways to enter a rule, `ways` those that can be open anywhere inside. Alternatives that begin with
    different characters leave one way each; others add up. Round and round until nothing grows: a rule that contains
    itself by an ambiguous choice grows without end, and so is refused.
    """
    starts = {**STARTS, **{name: rule.starts for name, rule in rules.items()}}
    units, ways = dict.fromkeys(starts, 1), dict.fromkeys(starts, 1)
    units["value"] = 6
    growing = True
    while growing:
        growing = False
        for name, rule in rules.items():
            new = starts[name], units[name], ways[name]
            if rule.choice:
                begin = [starts[part] for part in rule.parts]
                apart = sum(map(len, begin)) == len(frozenset().union(*begin))
                inner = [ways[part] for part in rule.parts]
                new = frozenset().union(*begin), sum(units[p] for p in rule.parts), max(inner) if apart else sum(inner)
            else:
                new = rule.starts, 1, max([rule.ways, *(ways[part] for part in rule.parts)])
            if new != (starts[name], units[name], ways[name]):
                starts[name], units[name], ways[name] = new
                growing = True
            if max(new[1], new[2]) > MOST_WAYS:
                raise RequestError(
                    f"response_format: answers to this schema can be meant in more than {MOST_WAYS} ways at once; give"
                    " the alternatives of anyOf different types, or fewer of them",
                    param="response_format",
                )
