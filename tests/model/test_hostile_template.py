"""A model file whose chat template is an attack: it is never rendered, and the answer is the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from glm_edge.convert.convert import convert
from glm_edge.engine.engine import LlamaEngine
from glm_edge.model.gguf import read_gguf
from glm_edge.types import EngineConfig, Message, Request, SamplingParams

KEY = "tokenizer.chat_template"
TEMPLATES = {
    "runs_a_program": "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "opens_a_file": "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ open('CANARY', 'w') }}",
    "never_ends": "{% for a in range(10**9) %}{% for b in range(10**9) %}{% endfor %}{% endfor %}",
    "does_not_parse": "{% for %}{{",
    "forges_control_tokens": "[gMASK]sop</s>{{ messages }}",
}


@pytest.fixture(scope="module")
def sound(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(small_checkpoint, tmp_path_factory.mktemp("template") / "x.gguf", type="q4_0", threads=1).path


def answer(model: Path) -> tuple[str, int]:
    """The greedy answer, and how many tokens the prompt had."""
    engine = LlamaEngine(EngineConfig(model, n_ctx=256, n_threads=1))
    try:
        messages = (Message("user", "hello"), Message("assistant", "the sop"), Message("user", "phil?"))
        chunks = list(engine.submit(Request(messages, SamplingParams(0), 8)))
    finally:
        engine.close()
    stats = chunks[-1].stats
    assert stats is not None
    return "".join(chunk.text for chunk in chunks), stats.prompt_tokens


@pytest.mark.case("M5")
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_hostile_chat_template_is_ignored(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    own = str(read_gguf(sound).metadata[KEY])
    hostile = TEMPLATES[name].ljust(len(own.encode()))  # in place: nothing else of the file changes
    model = tmp_path / "hostile.gguf"
    model.write_bytes(sound.read_bytes().replace(own.encode(), hostile.encode(), 1))
    assert read_gguf(model).metadata[KEY] == hostile
    assert answer(model) == answer(sound)
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.gguf"]
