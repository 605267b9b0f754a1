"""The environment for programs whose time or memory is what a test asks about: coverage costs both."""

import os


def unmeasured() -> dict[str, str]:
    """This process's environment, in which a program of Python is not measured."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
