"""Where the project's parts are, for tests that start programs or read files of it."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
BENCHMARKS = PROJECT / "tests" / "benchmarks"
SUPPORT = PROJECT / "tests" / "support"
