"""Imports go one way, and importing the package or asking for help loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import glm_edge
from glm_edge import convert

PACKAGE = Path(glm_edge.__file__).parent

# room -> rooms of ours it may import; a room may always import within itself
LAYERS: dict[str, set[str]] = {
    "errors": set(),
    "generation": {"errors"},
    "types": {"errors", "generation"},
    "prompt": {"types", "errors"},
    "regular": {"errors"},
    "gguf": {"errors", "regular"},
    "llama": {"errors"},
    "device": {"types", "errors"},
    "engine": {"types", "errors", "generation", "prompt", "gguf", "llama", "device"},
    "worker": {"types", "errors", "generation"},
    "api": {"types", "errors", "generation"},
    "verify": {"engine", "errors", "gguf", "llama", "convert"},
    "serve": {"api", "engine", "types", "errors", "generation", "device"},
    "bench": {"engine", "generation", "types", "errors", "gguf", "llama", "device"},
    "cli": {"*"},
}
ROOMS = {  # sharing a room
    "gguf_values": "gguf",
    "model_file": "gguf",
    "model_tensors": "gguf",
    "profile": "device",
    "llama_grammar": "llama",
    "llama_kernels": "llama",
}


def room(module: str) -> str:
    name = module.split(".")[1] if "." in module else "__init__"
    return ROOMS.get(name, name)


# what the converter may import of the runtime: modules that import nothing of ours but errors and types
CONVERTER = {"errors", "regular", "device"}
FRONT_ENDS = {"cli.py": {"cli"}, "__main__.py": {"cli"}}


def imported(path: Path, root: Path = PACKAGE) -> set[str]:
    """Absolute names of the modules that a file of glm_edge imports, at any depth of its code."""
    package = ["glm_edge", *path.relative_to(root).parts[:-1]]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names} if module == "glm_edge" else {module}
    return names


SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if p.relative_to(PACKAGE).parts[0] not in {"convert", "demo"})


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_room_imports_upwards(path: Path) -> None:
    own = room("glm_edge." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts))
    if own in {"__init__", "__main__"}:
        return
    allowed = LAYERS[own]
    ours = {room(name) for name in imported(path) if name.startswith("glm_edge.")} - {own, "__version__"}
    assert "*" in allowed or ours <= allowed


CONVERT = Path(convert.__path__[0])


@pytest.mark.parametrize("path", sorted(CONVERT.glob("*.py")), ids=lambda p: p.name)
def test_the_converter_knows_nothing_of_serving(path: Path) -> None:
    ours = {room(name) for name in imported(path, CONVERT.parent) if name.startswith("glm_edge.")}
    assert ours - {"convert", "__version__"} <= CONVERTER | FRONT_ENDS.get(path.name, set())


def test_only_the_binding_imports_llama_cpp_and_only_the_app_flask() -> None:
    users: dict[str, set[str]] = {"llama_cpp": set(), "flask": set()}
    for path in SOURCES:
        for name in imported(path):
            if name.split(".")[0] in users:
                users[name.split(".")[0]].add(str(path.relative_to(PACKAGE)))
    assert users == {
        "llama_cpp": {"llama.py", "llama_grammar.py", "llama_kernels.py"},
        "flask": {str(Path("api/app.py"))},
    }


HELP = "from glm_edge.cli import run, glm_edge; run(glm_edge, ['--help'], prog_name='x')"


@pytest.mark.parametrize("code", ["import glm_edge", HELP], ids=["import", "help"])
def test_importing_and_help_load_nothing_heavy(code: str) -> None:
    check = "import sys; print(sorted({'llama_cpp', 'flask', 'numpy', 'waitress'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", f"{code}; {check}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
