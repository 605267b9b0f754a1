"""What the demo model says: known questions, follow-ups, and the same text as a forward pass computed by hand."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glm_edge.convert.convert import convert
from glm_edge.engine.engine import LlamaEngine
from glm_edge.engine.text.tokenizer import Tokenizer
from glm_edge.llama.model import Model
from glm_edge.model.gguf import read_gguf
from glm_edge.types import EngineConfig, Message, Request, RuntimeName, SamplingParams, Stats
from support.engines.oracle import Oracle
from support.paths import PROJECT, SUPPORT

DEMO = PROJECT / "models" / "demo"


def lines(name: str) -> list[Any]:
    return [json.loads(line) for line in (SUPPORT / name).read_bytes().split(b"\n") if line]


pytestmark = pytest.mark.skipif(
    not (DEMO / "config.json").exists(), reason="models/demo has no weights; models/demo/train.py makes them"
)

PROMPTS = [(case["prompt"], case["answer"]) for case in lines("demo_prompts.jsonl")]


def answers(engine: LlamaEngine, conversations: list[list[str]]) -> list[str]:
    """Greedy answers to conversations, given as texts of user and assistant in turn."""
    generations = []
    for texts in conversations:
        messages = tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts))
        generations.append(engine.submit(Request(messages, SamplingParams(temperature=0), max_tokens=100)))
    return ["".join(chunk.text for chunk in generation) for generation in generations]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("demo")
    return {kind: convert(DEMO, folder / f"{kind}.gguf", type=kind).path for kind in ("f16", "q8_0", "q4_0", "edge")}


def engine_of(path: Path, runtime: RuntimeName = "llama") -> LlamaEngine:
    return LlamaEngine(EngineConfig(path, n_threads=1, slots=4, queue=200, runtime=runtime))


@pytest.fixture(scope="module")
def f16(files: dict[str, Path], runtime_name: RuntimeName) -> Iterator[LlamaEngine]:
    engine = engine_of(files["f16"], runtime_name)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def f16_answers(f16: LlamaEngine) -> list[str]:
    return answers(f16, [[prompt] for prompt, _ in PROMPTS])


def test_there_are_enough_prompts_half_of_them_chinese() -> None:
    assert len(PROMPTS) >= 60
    chinese = sum(any("\u4e00" <= c <= "\u9fff" for c in prompt) for prompt, _ in PROMPTS)
    assert 0.4 <= chinese / len(PROMPTS) <= 0.6


def test_every_prompt_is_answered_as_expected_at_f16(f16_answers: list[str]) -> None:
    wrong = [(p, got) for (p, wanted), got in zip(PROMPTS, f16_answers, strict=True) if got != wanted]
    assert wrong == []


def test_q8_0_answers_are_nearly_all_identical(
    files: dict[str, Path], f16_answers: list[str], runtime_name: RuntimeName
) -> None:
    engine = engine_of(files["q8_0"], runtime_name)
    got = answers(engine, [[prompt] for prompt, _ in PROMPTS])
    engine.close()
    assert sum(a == b for a, b in zip(got, f16_answers, strict=True)) >= 0.95 * len(PROMPTS)


@pytest.mark.parametrize("kind", ["q4_0", "edge"])
def test_answers_of_four_bits_are_mostly_correct(files: dict[str, Path], kind: str, runtime_name: RuntimeName) -> None:
    engine = engine_of(files[kind], runtime_name)
    got = answers(engine, [[prompt] for prompt, _ in PROMPTS])
    engine.close()
    assert sum(a == wanted for a, (_, wanted) in zip(got, PROMPTS, strict=True)) >= 0.8 * len(PROMPTS)


def test_second_answer_depends_on_the_first_round(f16: LlamaEngine) -> None:
    """The conversations were written before the model was trained; two of sixteen it never learnt (model card)."""
    cases = lines("demo_rounds.jsonl")
    got = answers(f16, [[*first, question] for first, question, _ in cases])
    wrong = [(q, a) for (_, q, wanted), a in zip(cases, got, strict=True) if a != wanted]
    assert len(cases) - len(wrong) >= 14, wrong


def test_text_equals_a_float32_forward_pass_of_the_checkpoint(files: dict[str, Path], f16_answers: list[str]) -> None:
    oracle = Oracle(DEMO)
    model = Model(files["f16"], vocab_only=True)
    tokenizer = Tokenizer(model, read_gguf(files["f16"]))
    identical = 0
    for (prompt, _), ours in zip(PROMPTS, f16_answers, strict=True):
        ids = tokenizer.prompt((Message("user", prompt),)).ids
        written = [token for token in oracle.greedy(ids, 100) if token != model.eos]
        text = b"".join(model.piece(token) for token in written).decode("utf-8", "replace").strip()
        identical += text == ours
    model.close()
    assert identical >= max(50, 0.95 * len(PROMPTS))


def test_prompt_lookup_writes_the_same_text_in_fewer_steps(files: dict[str, Path]) -> None:
    talk = [["你好"], ["你好", "你好！", "你好"], ["What is GLM Edge?"]]
    repeated = [[PROMPTS[0][0], PROMPTS[0][1], PROMPTS[0][0]]]  # the answer stands in the prompt already
    results = {}
    for lookup in (True, False):
        engine = LlamaEngine(EngineConfig(files["f16"], n_threads=1, prompt_lookup=lookup))
        results[lookup] = answers(engine, talk + repeated)
        engine.close()
    assert results[True] == results[False]


def run(home: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "XDG_DATA_HOME": str(home), "HOME": str(home), "LOCALAPPDATA": str(home)}
    return subprocess.Popen(
        [sys.executable, "-m", "glm_edge", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment,
    )


def test_two_programs_at_first_use_both_answer_and_leave_one_file(tmp_path: Path) -> None:
    arguments = ("chat", "--temperature", "0", "--threads", "1", "--prompt", PROMPTS[0][0])
    programs = [run(tmp_path, *arguments) for _ in range(2)]
    for program in programs:
        out, err = program.communicate(timeout=120)
        assert program.returncode == 0, err
        assert out.strip() == PROMPTS[0][1]
        assert "demo model, 4 million weights" in err
    (made,) = tmp_path.rglob("*.gguf")
    assert list(made.parent.iterdir()) == [made]


def test_a_new_version_removes_the_old_ones_model_and_nothing_else(tmp_path: Path) -> None:
    folders = {name: str(tmp_path) for name in ("XDG_DATA_HOME", "HOME", "LOCALAPPDATA")}
    code = "from glm_edge.cli.demo import demo_model; print(demo_model())"

    def make() -> Path:
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **folders}, capture_output=True, text=True, check=True
        )
        return Path(done.stdout.strip())

    current = make()
    names = ["glm-edge-demo-0123456789ab.gguf", "glm-edge-demo-mine.gguf", "glm-edge-demo-0123456789ab.gguf.prefixes"]
    for name in names:
        current.with_name(name).write_text("x")
    current.unlink()
    make()
    assert sorted(path.name for path in current.parent.iterdir()) == sorted([current.name, *names[1:]])


def test_where_the_file_cannot_be_put_the_error_says_what_to_do(tmp_path: Path) -> None:
    home = tmp_path / "file"
    home.write_bytes(b"")
    program = run(home, "chat", "--prompt", "a")
    _, err = program.communicate(timeout=120)
    assert program.returncode == 6
    assert err.count("\n") == 1
    assert "name a model with --model FILE" in err


def figures(engine: LlamaEngine, question: str) -> Stats:
    chunks = list(engine.submit(Request((Message("user", question),), SamplingParams(temperature=0))))
    stats = chunks[-1].stats
    assert stats is not None
    return stats


def test_an_answer_ends_by_itself(f16: LlamaEngine) -> None:
    assert figures(f16, "你好").completion_tokens < 60
