"""The findings as lines for people and as one JSON object for programs. Pure.

The object: `ok` (a chat will work), `next` (what to do), `findings` (each with topic, level "ok", "note" or "problem",
text, todo and facts) and `types` (each with type, bytes, fits, repacked, context, memory in bytes, and decode_rate and
prefill_rate in tokens a second, null where not measured).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ...system.device import GIB
from .host import Finding
from .speeds import Fit

_MARKS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}
_HEAD = ("ChatGLM2-6B as", "file, GB", "memory, GiB", "context", "reads, tokens/s", "writes, tokens/s")


@dataclass(frozen=True)
class Diagnosis:
    """All that was found."""

    findings: Sequence[Finding]
    types: Sequence[Fit]
    next: str

    @property
    def ok(self) -> bool:
        """Whether a chat will work."""
        return all(finding.level != "problem" for finding in self.findings)


def as_text(report: Diagnosis) -> str:
    width = max(len(finding.topic) for finding in report.findings)
    lines = []
    for finding in report.findings:
        lines.append(f"{finding.topic.ljust(width)}  {_MARKS[finding.level].ljust(7)}  {finding.text}")
        if finding.todo:
            lines.append(f"{' ' * width}           -> {finding.todo}")
    return "\n".join([*lines, "", *_table(report.types), *_legend(report.types), "", report.next])


def as_json(report: Diagnosis) -> str:
    return json.dumps(
        {
            "ok": report.ok,
            "next": report.next,
            "findings": [asdict(finding) for finding in report.findings],
            "types": [fit.facts for fit in report.types],
        },
        ensure_ascii=False,
    )


def _table(types: Sequence[Fit]) -> list[str]:
    rows = [_HEAD, *(_row(fit) for fit in types)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]


def _legend(types: Sequence[Fit]) -> list[str]:
    """What the dashes of the table mean, where there are any."""
    slow = any(fit.plan is None or fit.plan.slow for fit in types)
    late = any(fit.plan is not None and not fit.plan.slow and fit.decode is None for fit in types)
    why = [*(["the memory is too small"] if slow else []), *(["not measured in time"] if late else [])]
    return [f"-: {', or '.join(why)}"] if why else []


def _row(fit: Fit) -> tuple[str, ...]:
    size = f"{fit.size / 1e9:.2f}"
    if fit.plan is None or fit.plan.slow:
        needs = f"{fit.plan.total / GIB:.1f}" if fit.plan is not None else "-"
        return fit.name, size, needs, "does not fit" if fit.plan is None else "disk-bound", "-", "-"
    speeds = [
        "-" if rate is None else f"{rate:.2g}" if rate < 10 else f"{rate:.0f}" for rate in (fit.prefill, fit.decode)
    ]
    return fit.name, size, f"{fit.plan.total / GIB:.1f}", str(fit.plan.n_ctx), *speeds
