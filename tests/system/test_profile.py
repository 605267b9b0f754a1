"""The profile of a machine: kept whole, used where it belongs, ignored everywhere else."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from glm_edge.errors import StorageError
from glm_edge.system.profile import Profile, load_profile, profile_path, save_profile, tuned
from glm_edge.types import BatchCosts, EngineConfig, RpcServer

MACHINE = {"cpu": "some", "logical": 8, "llama_cpp_python": "0.3.36"}
COSTS = BatchCosts(True, ((1, 0.25), (4, 0.5)))
PROFILE = Profile(
    n_threads=3, n_threads_batch=4, n_batch=128, flash_attention=False, runtime="ik", batch_costs=COSTS, ik_speed=1.5
)
CONFIG = EngineConfig(Path("m.gguf"))


def test_profile_comes_back_on_the_same_machine(tmp_path: Path) -> None:
    path = tmp_path / "new" / "profile.json"
    save_profile(path, PROFILE, MACHINE)
    assert load_profile(path, MACHINE) == PROFILE
    assert [p.name for p in path.parent.iterdir()] == ["profile.json"]


def test_profiles_of_several_models_are_kept_and_a_new_one_replaces_its_own(tmp_path: Path) -> None:
    models = [MACHINE | {"model": {"hidden": n}, "type": "q4_0"} for n in range(40)]
    for n, model in enumerate(models):
        save_profile(tmp_path / "p", replace(PROFILE, n_batch=n + 1), model)
    save_profile(tmp_path / "p", replace(PROFILE, n_batch=99), models[38])
    found = [load_profile(tmp_path / "p", model) for model in (models[39], models[38], models[8], models[7])]
    assert found == [*(replace(PROFILE, n_batch=n) for n in (40, 99, 9)), None]  # 32 are kept


@pytest.mark.parametrize(
    "other",
    [MACHINE | {"cpu": "another"}, MACHINE | {"llama_cpp_python": "0.3.37"}, MACHINE | {"more": 1}],
    ids=["machine", "llama.cpp", "key"],
)
def test_profile_of_another_machine_is_ignored(tmp_path: Path, other: dict[str, object]) -> None:
    save_profile(tmp_path / "p", PROFILE, MACHINE)
    assert load_profile(tmp_path / "p", other) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"n_threads": 3', '"n_threads": 0'),
        ('"n_threads": 3', '"n_threads": "3"'),
        ('"n_threads": 3', '"n_threads": true'),
        ('"n_batch": 128', '"n_batch": 1e9'),
        ('"flash_attention": false', '"flash_attention": 1'),
        ('"n_batch": 128,', ""),
        ('"runtime": "ik"', '"runtime": "vllm"'),
        ('"load_mode": null', '"load_mode": "none"'),
        ('"huge_pages": true', '"huge_pages": null'),
        ('"quick": false', '"quick": 0'),
        ('"ik_speed": 1.5', '"ik_speed": -1.5'),
        ('"repacked": true', '"repacked": 1'),
        ('"seconds"', '"rows"'),
        ("0.25", "NaN"),
        ("0.25", "0.0"),
        ('"format": 4', '"format": 3'),
        ('"profiles"', '"profile"'),
        ("}", ""),
    ],
)
def test_damaged_profile_is_ignored(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "p"
    save_profile(path, PROFILE, MACHINE)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert load_profile(path, MACHINE) is None


def test_profile_that_cannot_be_written_is_an_error_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write the profile"):
        save_profile(tmp_path / "file" / "p", PROFILE, MACHINE)


@pytest.mark.skipif(sys.platform != "linux", reason="the folders are moved by the environment there")
def test_a_service_whose_settings_are_roots_keeps_its_profile_with_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")  # where not even root can make a folder
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert profile_path() == tmp_path / "glm-edge" / "profile.json"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert profile_path() == tmp_path / "config" / "glm-edge" / "profile.json"


def test_profile_fills_what_was_left_open() -> None:
    found = tuned(CONFIG, PROFILE)
    assert (found.n_threads, found.n_threads_batch, found.n_batch, found.flash_attention) == (3, 4, 128, False)
    assert found.runtime == "ik"
    assert found.batch_costs == COSTS
    assert tuned(CONFIG, None) == CONFIG


def test_costs_of_batches_hold_for_the_threads_and_the_machine_they_were_measured_with() -> None:
    assert tuned(replace(CONFIG, n_threads=3), PROFILE).batch_costs is None
    assert tuned(replace(CONFIG, rpc=(RpcServer("127.0.0.1", 50052),)), PROFILE).batch_costs is None


def test_a_quick_profile_leaves_open_what_it_did_not_measure(tmp_path: Path) -> None:
    quick = Profile(3, 4, None, flash_attention=False, runtime="llama", quick=True)
    save_profile(tmp_path / "p", quick, MACHINE)
    assert load_profile(tmp_path / "p", MACHINE) == quick
    assert tuned(CONFIG, quick).n_batch is None
    assert tuned(replace(CONFIG, n_batch=64), quick).n_batch == 64


def test_a_profile_can_leave_out_repacking_and_huge_pages() -> None:
    found = tuned(CONFIG, replace(PROFILE, load_mode="mmap", huge_pages=False))
    assert (found.load_mode, found.huge_pages) == ("mmap", False)
    assert not tuned(replace(CONFIG, huge_pages=False), PROFILE).huge_pages


def test_what_was_asked_for_goes_before_the_profile() -> None:
    asked = replace(CONFIG, n_threads=2, n_batch=64, flash_attention=True)
    assert tuned(asked, PROFILE) == replace(asked, runtime="ik")


def test_a_profile_of_another_runtime_than_asked_for_is_ignored() -> None:
    asked = replace(CONFIG, runtime="llama")
    assert tuned(asked, PROFILE) == asked
