"""A command of glm-edge in this process."""

from __future__ import annotations

from glm_edge.cli import glm_edge, run


def done(*arguments: object) -> int:
    """Its exit code."""
    return run(glm_edge, [*map(str, arguments)], prog_name="glm-edge")
