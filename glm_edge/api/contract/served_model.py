"""The served model as clients name it and see it: GET /v1/models, and the `model` field of requests. Pure."""

from __future__ import annotations

from collections.abc import Collection

from ...errors import RequestError
from ...types import ModelInfo
from .responses import ModelList, ModelObject
from .validation import show


def check_model(name: str | None, served: str, aliases: Collection[str] = ()) -> None:
    """Raise RequestError unless `name` is the served model, one of its aliases, or nothing."""
    if name is not None and name != served and name not in aliases:
        raise RequestError(
            f"the model {show(name)} does not exist here; this server has {show(served)}",
            param="model",
            code="model_not_found",
        )


def model_object(info: ModelInfo, created: int) -> ModelObject:
    return {"id": info.id, "object": "model", "created": created, "owned_by": "glm-edge"}


def model_list(info: ModelInfo, created: int) -> ModelList:
    return {"object": "list", "data": [model_object(info, created)]}
