"""lm-eval by command, without a hub: a loglikelihood and a generation task on a local file, with the demo model.

It runs in the Python of GLM_EDGE_CLIENTS_PYTHON, and skips where that has no lm_eval with transformers. Its tokenizer
is made of the demo's tokenizer.model, so the token ids that it sends are the model's own.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from glm_edge.convert.convert import convert
from glm_edge.engine.engine import LlamaEngine
from glm_edge.types import EngineConfig
from support.paths import PROJECT
from support.server.live_server import LiveServer

DEMO = PROJECT / "models" / "demo"

TOKENIZER = """
import json, sys
from pathlib import Path
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, decoders, models, normalizers
model = sentencepiece_model_pb2.ModelProto()
model.ParseFromString(Path(sys.argv[1]).read_bytes())
ids = {piece.piece: n for n, piece in enumerate(model.pieces)}
pairs = [(piece.score, piece.piece[:i], piece.piece[i:]) for piece in model.pieces for i in range(1, len(piece.piece))]
merges = [(a, b) for _, a, b in sorted(pairs, key=lambda pair: -pair[0]) if a in ids and b in ids]
made = Tokenizer(models.BPE(ids, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
made.save("tokenizer/tokenizer.json")
names = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "unk_token": "<unk>"}
Path("tokenizer/tokenizer_config.json").write_text(json.dumps(names))
"""
TASKS = {
    "choice": 'output_type: multiple_choice\ndoc_to_text: "{{q}}"\ndoc_to_choice: ["好", "坏"]\ndoc_to_target: 0\n'
    "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n",
    "generate": 'output_type: generate_until\ndoc_to_text: "{{q}}"\ndoc_to_target: "x"\n'
    'generation_kwargs: {until: ["\\n"], max_gen_toks: 8}\n'
    "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n",
}


@pytest.fixture(scope="module")
def python() -> str:
    found = os.environ.get("GLM_EDGE_CLIENTS_PYTHON")
    look = "import lm_eval, sentencepiece, transformers"
    if found is None or subprocess.run([found, "-c", look], capture_output=True, check=False).returncode:
        pytest.skip("GLM_EDGE_CLIENTS_PYTHON (a Python with lm-eval[api], transformers, sentencepiece) is not there")
    return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    file = convert(DEMO, tmp_path / "demo.gguf", type="f16").path
    with LiveServer(LlamaEngine(EngineConfig(file, n_threads=1, n_ctx=512))) as server:  # type: ignore[arg-type]
        yield server


def test_lm_eval(python: str, server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tasks").mkdir()
    data = tmp_path / "data.jsonl"
    data.write_text("".join(f"{json.dumps({'q': text})}\n" for text in ("天气怎样", "你好")), "utf-8")
    for name, task in TASKS.items():
        source = (
            f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test\n"
        )
        (tmp_path / "tasks" / f"{name}.yaml").write_text(source + task, "utf-8")
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONUTF8": "1"}
    address = f"base_url={server.url}/v1/completions"
    model = f"model=chatglm2-6b,{address},tokenizer={tmp_path / 'tokenizer'},tokenizer_backend=huggingface"
    options = ["--model", "local-completions", "--model_args", model, "--include_path", "tasks"]
    for command in (
        ["-c", TOKENIZER, str(DEMO / "tokenizer.model")],
        ["-m", "lm_eval", *options, "--tasks", ",".join(TASKS), "--output_path", "out"],
    ):
        done = subprocess.run(
            [python, *command],
            cwd=tmp_path,
            env={**os.environ, **offline},
            capture_output=True,
            encoding="utf-8",
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    (found,) = (tmp_path / "out").rglob("results*.json")
    results = json.loads(found.read_text("utf-8"))["results"]
    assert set(results) == set(TASKS)
    assert 0 <= results["choice"]["acc,none"] <= 1
