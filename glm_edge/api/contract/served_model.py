"""The served model as clients name it and see it: GET /v1/models, and the `model` field of requests. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from ...errors import RequestError
from ...types import ModelInfo
from .responses import ModelList, ModelObject
from .validation import show

PUBLIC_NAME = "chatglm2-6b"  # by which programs for this model ask, whatever its file is called


def check_model(name: str | None, served: str, aliases: Collection[str] = ()) -> None:
    """Raise RequestError unless `name` is the served model, one of its aliases, in any case, or nothing."""
    known = {one.lower() for one in (served, PUBLIC_NAME, *aliases)}
    if name and name.lower() not in known:
        raise RequestError(
            f"the model {show(name)} does not exist here; this server has {show(served)}",
            param="model",
            code="model_not_found",
        )


def fingerprint(info: ModelInfo, version: str) -> str:
    """The `system_fingerprint` of answers: another one where the same request may get another answer."""
    facts = f"{version} {info.id} {info.n_params} {info.n_ctx}"
    return f"fp_{hashlib.sha256(facts.encode()).hexdigest()[:12]}"


def model_object(info: ModelInfo, created: int) -> ModelObject:
    return {"id": info.id, "object": "model", "created": created, "owned_by": "glm-edge"}


def model_list(info: ModelInfo, created: int) -> ModelList:
    return {"object": "list", "data": [model_object(info, created)]}
