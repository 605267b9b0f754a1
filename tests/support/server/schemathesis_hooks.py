"""Hooks for schemathesis: what /openapi.json says in words only, done to those requests that are to be right.

JSON Schema has no word for the last of any number of items, nor for two fields that are equal.
"""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis.generation import GenerationMode


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """A right conversation gets a last message that is the user's, nothing to continue, and one limit of tokens."""
    right = case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE
    if right and case.path == "/v1/chat/completions" and isinstance(case.body, dict):
        last = {"role": "user", "content": "x"}
        case.body = {**case.body, "messages": [*case.body["messages"], last]}
        for name in ("continue_final_message", "add_generation_prompt"):
            case.body.pop(name, None)
        if case.body.get("max_tokens") is not None:
            case.body.pop("max_completion_tokens", None)
