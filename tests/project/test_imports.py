"""The rules of the layout: imports go one way, levels stay small, and asking for help loads nothing heavy."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import glm_edge
from glm_edge import convert
from support.paths import PROJECT

PACKAGE = Path(glm_edge.__file__).parent
CONVERT = Path(convert.__path__[0])

# Every package and the packages it may import, from the ground up: each may name only those above it. "" is what
# everyone may import: errors, types, generation and the version.
MAY_IMPORT: dict[str, set[str]] = {
    "": set(),
    "system": set(),
    "model": {"system"},
    "convert.source": {"system", "model"},
    "convert.tokenizer": {"system", "model", "convert.source"},
    "convert.quantize": {"model"},
    "convert": {"system", "model", "convert.source", "convert.tokenizer", "convert.quantize"},
    "convert.pull": {"system", "model", "convert.source", "convert.tokenizer", "convert.quantize", "convert"},
    "llama": {"system", "model"},
    "engine.text": {"model", "llama"},
    "engine.sampling": {"system", "llama"},
    "engine.prefix_cache": {"system"},
    "engine": {"system", "model", "llama", "engine.text", "engine.sampling", "engine.prefix_cache"},
    "worker": {"system"},
    "api.contract": {"system"},
    "api.contract.answers": {"system", "api.contract"},
    "api.access": {"system"},
    "api.http": {"api.contract", "api.access"},
    "api.page": set(),
    "api": {"system", "api.contract", "api.contract.answers", "api.access", "api.http", "api.page"},
    "tools": {"system", "model", "convert", "convert.source", "convert.quantize", "llama", "engine", "engine.text"},
    "tools.bench": {"system", "model", "llama", "engine", "engine.text", "engine.prefix_cache", "tools"},
    "tools.doctor": {"system", "model", "convert", "convert.quantize", "llama", "engine"},
    "tools.service": {"system"},
    "tools.runtime": {"system", "model"},
    "tools.bundle": {"system", "model", "engine.prefix_cache", "tools.runtime", "tools.service"},
    "tools.bundle.install": {"system"},
    "cli.terminal": {"system"},
    "cli": {"*"},
}
DOORS = {"convert/__main__.py", "__main__.py"}  # these start the command line and do nothing else
MOST_ENTRIES = 16  # files and folders of one level, the verbs of cli/ not counted


def sources() -> dict[str, Path]:
    """Every file of the package by its name in it, convert/ included."""
    found = {p.relative_to(PACKAGE).as_posix(): p for p in PACKAGE.rglob("*.py")}
    found |= {f"convert/{p.relative_to(CONVERT).as_posix()}": p for p in CONVERT.rglob("*.py")}
    return {name: path for name, path in found.items() if not name.startswith("demo/")}


SOURCES = sources()
MODULES = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in SOURCES} | {"__init__"}


def package_of(name: str) -> str:
    """The package that the file `name` is in: "engine.text" for "engine/text/prompt.py"."""
    return name.rpartition("/")[0].replace("/", ".")


def imported_modules(name: str) -> set[str]:
    """Absolute names of the modules that a file imports, at any depth of its code."""
    here = ["glm_edge", *name.split("/")[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse(SOURCES[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{module}.{alias.name}"
                found.add(full if full.removeprefix("glm_edge.") in MODULES else module)
    return found


def imported_packages(name: str) -> set[str]:
    """The packages of ours that a file imports from, its own left out."""
    ours = {module.removeprefix("glm_edge.") for module in imported_modules(name) if module.startswith("glm_edge.")}
    packages = {
        module if f"{module.replace('.', '/')}/__init__.py" in SOURCES else module.rpartition(".")[0] for module in ours
    }
    return packages - {package_of(name)}


def test_the_table_names_every_package_and_only_those_above() -> None:
    assert {package_of(name) for name in SOURCES} == set(MAY_IMPORT)
    above: set[str] = set()
    for package, allowed in MAY_IMPORT.items():
        assert package == "cli" or allowed <= above, package
        above.add(package)


@pytest.mark.parametrize("name", sorted(set(SOURCES) - DOORS))
def test_a_package_imports_only_what_the_table_allows(name: str) -> None:
    allowed = MAY_IMPORT[package_of(name)]
    found = imported_packages(name)
    assert "*" in allowed or found <= allowed | {""}


def test_no_package_imports_another_that_imports_it() -> None:
    edges: dict[str, set[str]] = {package: set() for package in MAY_IMPORT}
    for name in set(SOURCES) - DOORS:
        edges[package_of(name)] |= imported_packages(name)
    both_ways = {(a, b) for a in edges for b in edges[a] if a in edges.get(b, ())}
    assert not both_ways


def test_only_the_binding_imports_llama_cpp_and_only_the_app_flask() -> None:
    users: dict[str, set[str]] = {"llama_cpp": set(), "flask": set()}
    for name in SOURCES:
        for module in imported_modules(name):
            if (top := module.split(".")[0]) in users:
                users[top].add(package_of(name) if top == "llama_cpp" else name)
    assert users == {"llama_cpp": {"llama"}, "flask": {"api/app.py"}}


def test_no_two_classes_share_a_name() -> None:
    names = [
        node.name
        for path in SOURCES.values()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    assert [name for name, times in Counter(names).items() if times > 1] == []


DOCUMENTS = sorted(
    path.relative_to(PROJECT).as_posix()
    for pattern in ("*.md", "convert/*.md", "glm_edge/**/*.md", "models/**/*.md", "tests/*.md")
    for path in PROJECT.glob(pattern)
)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_in_a_document_leads_to_something(name: str) -> None:
    document = PROJECT / name
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text("utf-8"))
    targets = [link for link in links if not link.startswith(("http://", "https://"))]
    assert [link for link in targets if not _leads_somewhere(document, link)] == []


def _leads_somewhere(document: Path, link: str) -> bool:
    """Whether the file is there and, where the link names a heading, has that."""
    file, _, heading = link.partition("#")
    target = document.parent / file if file else document
    if not target.exists():
        return False
    titles = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE) if heading else []
    return not heading or heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_no_level_has_more_entries_than_a_reader_can_hold() -> None:
    verbs = {f"{verb}.py" for verb in _verbs()}
    for folder in [PROJECT / "glm_edge", PROJECT / "convert", PROJECT / "tests"]:
        for level in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
            if {"__pycache__", "vendor"} & set(level.parts) or any(part.startswith(".") for part in level.parts):
                continue
            entries = {entry.name for entry in level.iterdir() if entry.name not in {"__pycache__", ".DS_Store"}}
            if level.name == "cli" and level.parent.name == "glm_edge":
                entries -= verbs
            assert len(entries) <= MOST_ENTRIES, f"{level.relative_to(PROJECT)}: {len(entries)} entries"


def _verbs() -> list[str]:
    import click

    from glm_edge.cli import glm_edge as command

    return command.list_commands(click.Context(command))


def test_the_installed_packages_are_those_of_the_checkout() -> None:
    config = configparser.ConfigParser()
    config.read(PROJECT / "setup.cfg", "utf-8")
    named = set(config["options"]["packages"].split())
    assert named == {f"glm_edge.{p}".rstrip(".") for p in MAY_IMPORT} | {"glm_edge.demo"}


HELP = "from glm_edge.cli import run, glm_edge; run(glm_edge, ['--help'], prog_name='x')"


SERVE_HELP = HELP.replace("['--help']", "['serve', '--help']")


@pytest.mark.parametrize("code", ["import glm_edge", HELP, SERVE_HELP], ids=["import", "help", "serve-help"])
def test_importing_and_help_load_nothing_heavy(code: str) -> None:
    check = "import sys; print(sorted({'llama_cpp', 'flask', 'numpy', 'pydantic', 'waitress'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", f"{code}; {check}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
