"""The served model as clients name it and see it: GET /v1/models, and the `model` field of requests. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from ...errors import RequestError
from ...types import ModelInfo
from .responses import ModelList, ModelObject
from .validation import show

PUBLIC_NAME = "chatglm2-6b"  # by which programs for this model ask, whatever its file is called


def adapter_named(name: str | None, info: ModelInfo, aliases: Collection[str] = ()) -> str | None:
    """The adapter that `name` asks for; None where it is the model itself, one of its aliases, or nothing.

    Case does not matter. Raises RequestError for any other name.
    """
    asked = (name or "").lower()
    if not asked or asked in (one.lower() for one in (info.id, *aliases)):
        return None
    for adapter in info.adapters:
        if asked == adapter.lower():
            return adapter
    if asked == PUBLIC_NAME:
        return None
    served = ", ".join(map(show, (info.id, *info.adapters)))
    raise RequestError(
        f"the model {show(name)} does not exist here; this server has {served}",
        param="model",
        code="model_not_found",
    )


def fingerprint(info: ModelInfo, version: str) -> str:
    """The `system_fingerprint` of answers: another one where the same request may get another answer."""
    facts = f"{version} {info.id} {info.digest} {info.n_params} {info.n_ctx}"
    return f"fp_{hashlib.sha256(facts.encode()).hexdigest()[:12]}"


def model_object(info: ModelInfo, created: int, adapter: str | None = None) -> ModelObject:
    """The served model, or one of its adapters."""
    found: ModelObject = {
        "id": adapter or info.id,
        "object": "model",
        "created": created,
        "owned_by": "glm-edge",
        "digest": info.digest,
    }
    if adapter is not None:
        found["parent"] = info.id
    return found


def model_list(info: ModelInfo, created: int) -> ModelList:
    names = (None, *info.adapters)
    return {"object": "list", "data": [model_object(info, created, adapter) for adapter in names]}
