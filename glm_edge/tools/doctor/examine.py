"""The whole examination: the checks in their order, and what to do next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ...model.values import TENSOR_TYPES
from ...system.device import GIB, features, memory_available
from .host import Finding, Host
from .memory import memory
from .model import adapter, look_at, model
from .probe import Probed, probe
from .processor import fast, processor
from .report import Diagnosis
from .runtime import runtime, second_runtime
from .speeds import FOUR_BITS, Fit, fits, timed, to_measure
from .storage import storage
from .surroundings import surroundings

_LEAST, _MOST = 64 << 20, 512 << 20  # bytes of weights to measure with


def examine(
    host: Host,
    file: Path | None,
    folders: Mapping[str, Path],
    port: int,
    measure: Callable[..., Probed] = probe,
    adapters: Sequence[Path] = (),
    profiles: Path | None = None,
) -> Diagnosis:
    """Look at everything.

    Args:
        file: the model that a chat would run; None: the demo model.
        folders: where data, cache and settings are kept.
        measure: as `probe`.
        adapters: files of convert-adapter that are to be used with the model.
        profiles: the file of the tuned profiles; None, for a machine that is not this one, leaves out ik_llama.cpp.
    """
    available = memory_available(host.root)
    wrong, own = look_at(file, available) if file is not None else (None, None)
    types = fits(available)
    wanted = to_measure([*([own] if own is not None else []), *types])
    probed = measure(wanted, threads=host.cpus.best, size=_buffer_size(host, available))
    types = [timed(fit, probed.rates) for fit in types]
    findings = [
        *runtime(probed, fast=fast(host), amx="amx_int8" in features(host.root)),
        *(second_runtime(probed, profiles) if profiles is not None else []),
        *processor(host, amx="AMX" in probed.kinds.values()),
        *memory(host),
        *_speed(probed, wanted),
        _types(types),
    ]
    findings += [*storage(host, folders), *surroundings(host, port)]
    if wrong is not None:
        findings.append(wrong)
    if own is not None and file is not None:
        findings.append(model(file, timed(own, probed.rates), available))
    findings += [adapter(path, None if own is None else file) for path in adapters]
    return Diagnosis(findings, types, _next(findings, types, file))


def rated_types(host: Host) -> list[Fit]:
    """The types of ChatGLM2-6B, with the speeds that this machine's products predict."""
    available = memory_available(host.root)
    types = [fit for fit in fits(available) if fit.name in FOUR_BITS]
    probed = probe(to_measure(types), threads=host.cpus.best, size=_buffer_size(host, available))
    return [timed(fit, probed.rates) for fit in types]


def _buffer_size(host: Host, available: int) -> int:
    """Several times the caches, as far as memory allows: weights in a cache would be read too fast."""
    caches = [host.text(name) for name in host.names("sys/devices/system/cpu/cpu0/cache/index*/size")]  # "32K"
    largest = max((int(text[:-1]) << 10 for text in caches if text[:-1].isdigit() and text[-1] == "K"), default=0)
    return max(_LEAST, min(4 * largest, _MOST, available // 4))


def _speed(probed: Probed, wanted: Sequence[tuple[str, bool]]) -> list[Finding]:
    """The memory's rate as the fastest product reads it; f16 is read as it is."""
    sizes = {name: size / weights for name, weights, size in TENSOR_TYPES.values()}
    read = {name: sizes[name] / rate.decode for (name, _), rate in probed.rates.items()}
    if not read:
        return []
    best = max(read, key=lambda name: read[name])
    facts = {
        "bytes_per_second": read,
        "measured": len(probed.rates),
        "wanted": len(wanted),
    }
    return [Finding("bandwidth", "ok", f"up to {read[best] / 1e9:.1f} GB of weights a second (as {best})", facts=facts)]


def _types(types: Sequence[Fit]) -> Finding:
    """Which types of ChatGLM2-6B fit, in a sentence; the table has the rest."""
    good = [fit for fit in types if fit.plan is not None and not fit.plan.slow]
    facts = {"fit": [fit.name for fit in good]}
    if good:
        return Finding("types", "ok", f"ChatGLM2-6B fits as {', '.join(fit.name for fit in good)}", facts=facts)
    least = min(types, key=lambda fit: fit.size)
    size = f"{least.size / GIB:.1f} GiB and the context more"
    text = f"ChatGLM2-6B fits as none of them: the smallest, {least.name}, takes {size}"
    return Finding(
        "types", "note", text, "close other programs, or use a machine with 8 GB; the demo model runs", facts
    )


def _next(findings: Sequence[Finding], types: Sequence[Fit], file: Path | None) -> str:
    """The one line at the end."""
    problem = next((finding for finding in findings if finding.level == "problem"), None)
    if problem is not None:
        return f"next: {problem.topic}: {problem.todo}"
    if file is not None:
        return f"next: glm-edge chat --model {file}"
    usable = [fit.name for fit in types if fit.plan is not None and not fit.plan.slow]
    if not usable:
        return "next: glm-edge chat, which runs the demo model"
    best = next((name for name in ("edge", "q3_k_m") if name in usable), usable[0])
    return f"next: glm-edge pull THUDM/chatglm2-6b --type {best}, or glm-edge chat with the demo model"
