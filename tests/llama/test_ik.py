"""ik_llama.cpp beside llama.cpp: the same logits, what it would do wrongly, and one line where it cannot be used."""

from __future__ import annotations

import ctypes
import importlib.metadata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from glm_edge.convert.convert import convert
from glm_edge.convert.recipes import RECIPES
from glm_edge.engine.engine import LlamaEngine
from glm_edge.errors import UnsupportedModelError, UsageError
from glm_edge.llama import ik, ik_api
from glm_edge.llama.context import Batch, Context
from glm_edge.llama.model import Model
from glm_edge.llama.runtime import runtime
from glm_edge.system.device import machine
from glm_edge.system.profile import Profile, save_profile
from glm_edge.tools.doctor.probe import Probed
from glm_edge.tools.doctor.runtime import second_runtime
from glm_edge.tools.verify import verify
from glm_edge.types import EngineConfig, Message, Request, RuntimeName, SamplingParams
from support.paths import PROJECT

DEMO = PROJECT / "models" / "demo"
IDS = [7 + 31 * i for i in range(60)]


def opened(model: Model, n_batch: int = 64) -> Context:
    sizes = {"n_ctx": 256, "n_batch": n_batch, "n_sequences": 4, "n_outputs": n_batch}
    return Context(model, **sizes, n_threads=1, n_threads_batch=1)


def logits(context: Context, tokens: list[tuple[int, int, int]]) -> NDArray[np.float32]:
    """(tokens, vocabulary): of (token, position, sequence) in one batch."""
    batch = Batch(64)
    rows = [batch.add(*token, logits=True) for token in tokens]
    assert context.decode(batch) == "done"
    return np.stack([context.logits(row) for row in rows])


@pytest.fixture(scope="module")
def usable() -> None:
    try:
        ik.library_path()
    except UnsupportedModelError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def model(usable: None, tiny_f16: Path) -> Iterator[Model]:
    model = Model(tiny_f16, runtime_name="ik")
    yield model
    model.close()


@pytest.mark.parametrize(
    "kind", ["f32", "f16", "bf16", "q8_0", "q6_k", "q5_0", "q4_0", "q3_k_m", "q2_k", "iq4_xs", "edge-arm"]
)
def test_logits_of_a_type_are_llama_cpps(usable: None, tmp_path: Path, kind: str) -> None:
    """As far as both round: the last position's candidates in much the same order."""
    path = convert(DEMO, tmp_path / "m.gguf", type=kind).path
    found: dict[RuntimeName, NDArray[np.float32]] = {}
    names: list[RuntimeName] = ["llama", "ik"]
    for name in names:
        model = Model(path, runtime_name=name)
        context = opened(model)
        found[name] = logits(context, [(token % model.n_vocab, i, 0) for i, token in enumerate(IDS)])
        context.close()
        model.close()
    bound = 0.05 if kind in ("f32", "f16") else 0.5  # of a deviation of 2.7; types computed wrongly differ by 3
    assert np.abs(found["ik"] - found["llama"]).max() < bound


@pytest.mark.parametrize("kind", ["q4_1", "q5_1", "q5_k_m"])
def test_a_type_that_is_computed_wrongly_is_refused_by_name(usable: None, tmp_path: Path, kind: str) -> None:
    path = convert(DEMO, tmp_path / "m.gguf", type=kind).path
    with pytest.raises(UnsupportedModelError, match=r"tensors of type (q4_1|q5_1), .*leave out --runtime ik"):
        Model(path, runtime_name="ik")
    Model(path, vocab_only=True, runtime_name="ik").close()


def test_every_recipe_is_known_to_work_or_is_refused() -> None:
    types: set[str] = set()
    for recipe in (recipe for recipe in RECIPES.values() if not recipe.needs_importance):
        types |= {recipe.matrices, *recipe.fallback.values()}
        types |= {rule.type for rules in recipe.special.values() for rule in rules}
    assert types - set(ik.TYPES) == {"q4_1", "q5_1"}


def test_what_one_sequence_leaves_free_hides_nothing_of_the_others(model: Model) -> None:
    """ik_llama.cpp looks at every 32nd cell for the last one in use; here those are of the sequence that goes."""
    context, alone = opened(model), opened(model)
    for i, token in enumerate(IDS):
        logits(context, [(token, i, 0), (token + 1, i, 1)])
        logits(alone, [(token, i, 0)])
    context.remove(1)
    for i in range(len(IDS), len(IDS) + 3):
        np.testing.assert_allclose(logits(context, [(9, i, 0)]), logits(alone, [(9, i, 0)]), atol=1e-2)
    context.close()
    alone.close()


def test_scattered_cells_take_a_long_batch_and_a_state(model: Model) -> None:
    context = opened(model)
    for i, token in enumerate(IDS):
        logits(context, [(token, i, s) for s in range(4)])
    kept = context.state(1, 0, len(IDS))
    context.remove(0)
    context.remove(1)
    before = logits(context, [(5, len(IDS), 2)])
    assert context.restore(1, kept, 0, len(IDS))
    logits(context, [(token, i, 0) for i, token in enumerate(IDS)])
    context.remove(2, len(IDS))
    np.testing.assert_allclose(logits(context, [(5, len(IDS), 2)]), before, atol=1e-2)
    np.testing.assert_allclose(logits(context, [(5, len(IDS), 1)]), before, atol=1e-2)
    context.close()


def test_a_callback_that_stops_spares_the_cells_that_are_moved(model: Model) -> None:
    stop = False
    sizes = {"n_ctx": 256, "n_batch": 64, "n_sequences": 4, "n_outputs": 64}
    context = Context(model, **sizes, n_threads=1, n_threads_batch=1, should_abort=lambda _: stop)
    for i, token in enumerate(IDS):
        logits(context, [(token, i, s) for s in range(2)])
    before = logits(context, [(5, len(IDS), 0)])
    context.remove(1)
    context.remove(0, len(IDS))
    stop = True
    batch = Batch(64)
    batch.add(5, len(IDS), 0, logits=True)
    assert context.decode(batch) == "aborted"
    context.remove(0, len(IDS))
    stop = False
    np.testing.assert_allclose(logits(context, [(5, len(IDS), 0)]), before, atol=1e-2)
    context.close()


def test_a_cache_or_attention_that_would_end_the_process_is_refused(usable: None, tiny_f16: Path) -> None:
    with pytest.raises(UsageError, match="no cache of f32"):
        LlamaEngine(EngineConfig(tiny_f16, runtime="ik", kv_type="f32", n_threads=1))
    with pytest.raises(UsageError, match="flash attention"):
        LlamaEngine(EngineConfig(tiny_f16, runtime="ik", flash_attention=True, n_threads=1))


def test_an_adapter_is_refused_because_its_state_is_laid_out_otherwise(model: Model) -> None:
    context = opened(model)
    with pytest.raises(UsageError, match="takes no adapters; leave out --runtime ik"):
        context.cells([], [])
    context.close()


def test_a_long_prompt_stops_in_the_middle_of_its_batch(usable: None, tiny_f16: Path) -> None:
    engine = LlamaEngine(EngineConfig(tiny_f16, runtime="ik", n_threads=1))
    generation = engine.submit(Request((Message("user", "word " * 1900),), SamplingParams(0)))
    generation.cancel()
    assert list(generation)[-1].finish_reason == "cancelled"
    engine.close()


def test_structures_that_are_laid_out_otherwise_are_refused(usable: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Longer(ctypes.Structure):
        _fields_ = (*ik_api.ContextParams._fields_, ("more", ctypes.c_int64))

    monkeypatch.setattr(ik_api, "ContextParams", Longer)
    with pytest.raises(UnsupportedModelError, match="its structures are not those"):
        ik_api.IkApi(ik.library_path())


@pytest.mark.skipif(ik.platform.machine() != "x86_64", reason="ik_llama.cpp runs on x86-64 alone here")
def test_another_version_is_refused(usable: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.1.4")
    with pytest.raises(UnsupportedModelError, match=r"0\.1\.4 is installed, and only 0\.1\.5 is known; pip install"):
        ik.library_path()


def test_its_versions_are_others_than_llama_cpps(usable: None) -> None:
    assert runtime("ik").versions()["ik_llama_cpp_python"] == ik.VERSION
    assert runtime("ik").versions() != runtime("llama").versions()


def test_a_file_can_be_verified_with_its_tokenizer(usable: None, tiny_q4_0: Path) -> None:
    assert verify(tiny_q4_0, runtime_name="ik").path == tiny_q4_0


def test_verify_refuses_types_that_it_computes_wrongly(usable: None, small_checkpoint: Path, tmp_path: Path) -> None:
    path = convert(small_checkpoint, tmp_path / "m.gguf", type="q4_1").path
    assert verify(path).path == path
    with pytest.raises(UnsupportedModelError, match="may compute wrongly; leave out --runtime ik"):
        verify(path, runtime_name="ik")


def test_the_doctor_names_it_and_how_fast_a_tuning_found_it(
    usable: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles, versions = tmp_path / "profile.json", {"llama_cpp_python": "1", "system": "x"}
    probed = Probed(versions=versions)
    (found,) = second_runtime(probed, profiles)
    installed = "ik-llama-cpp-python 0.1.5 is installed, for --runtime ik"
    assert (found.level, found.text) == ("ok", f"{installed}; bench --tune measures its speed")
    here = {**machine(), **versions, "ik_llama_cpp_python": ik.VERSION, "model": {"hidden": 1}}
    profile = Profile(1, 1, 64, flash_attention=False, runtime="ik", ik_speed=1.4)
    save_profile(profiles, profile, here | {"type": "q4_0"})
    save_profile(profiles, replace(profile, ik_speed=1.2), here | {"type": "edge"})
    save_profile(profiles, replace(profile, ik_speed=3.0), here | {"type": "f16", "system": "another"})
    (found,) = second_runtime(probed, profiles)
    assert found.text == f"{installed}; its speed, of llama.cpp's, by bench --tune: q4_0 1.40, edge 1.20"
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.1.4")
    (found,) = second_runtime(probed, profiles)
    assert (found.level, found.todo) == ("note", "pip install 'glm-edge[ik]'")
