"""The model file: whether it is sound, and how it will run here. Its weights are not read. And its adapters."""

from __future__ import annotations

from pathlib import Path

from ...engine.memory_plan import weights_of
from ...errors import GlmEdgeError
from ...model.adapter import check_fits, read_adapter
from ...model.checks import check_model
from ...model.gguf import read_gguf
from ...system.device import GIB
from .host import Finding
from .speeds import Fit, plan_of, work_of_file

_CHECK = "glm-edge verify checks it to the last byte"


def look_at(path: Path, available: int) -> tuple[Finding | None, Fit | None]:
    """What is wrong with the file, or how it fits."""
    try:
        file = read_gguf(path)
        check_model(file)
    except GlmEdgeError as error:
        return Finding("model", "problem", str(error), "fetch or convert it again", {"path": str(path)}), None
    return None, Fit(path.name, file.size, plan_of(weights_of(file), available), work_of_file(file.tensors))


def model(path: Path, fit: Fit, available: int) -> Finding:
    """How the file will run, once its speed is known."""
    facts = {"path": str(path), **fit.facts}
    text = f"{path.name}, {fit.size / 1e9:.2f} GB; its head is sound"
    if fit.plan is None:
        todo = "close other programs, or convert to a smaller type"
        return Finding("model", "problem", f"{text}; it does not fit {available / GIB:.1f} GiB of memory", todo, facts)
    if fit.plan.slow:
        todo = "convert to a smaller type, or close other programs"
        return Finding("model", "note", f"{text}; {fit.plan.warning}", todo, facts)
    how = "repacked" if fit.plan.repack else "mapped, not repacked"
    text += f"; {how}, context {fit.plan.n_ctx}"
    if fit.decode and fit.prefill:
        text += f"; reads {fit.prefill:.2g} and writes {fit.decode:.2g} tokens/s"
    return Finding("model", "ok", f"{text}; {_CHECK}", facts=facts)


def adapter(path: Path, model: Path | None) -> Finding:
    """Whether an adapter is whole and fits the model, where that is sound. Reads all of it: a few megabytes."""
    facts: dict[str, object] = {"path": str(path)}
    try:
        found = read_adapter(path)
        if model is not None:
            check_fits(found, read_gguf(model))
    except GlmEdgeError as error:
        return Finding("adapter", "problem", str(error), "convert it again for this model", facts)
    facts |= {"tokens": found.tokens, "bytes": found.file.size}
    fits = "" if model is None else f", fits {model.name}"
    text = f"{path.name}, {found.file.size / 1e6:.1f} MB; whole{fits}; takes {found.tokens} tokens of the context"
    return Finding("adapter", "ok", text, facts=facts)
