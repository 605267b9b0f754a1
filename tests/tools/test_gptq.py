"""`convert --gptq`: what it gains, that it continues where it was interrupted, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from glm_edge.convert.convert import convert
from glm_edge.convert.quantize.columns import COMPENSATED
from glm_edge.convert.quantize.compensation import add_products, compensated, factor
from glm_edge.convert.quantize.rounding import quantize_rows
from glm_edge.convert.source.files import StableFile
from glm_edge.convert.source.inputs import Inputs, encoded
from glm_edge.errors import IntegrityError, InvalidFileError
from glm_edge.llama.model import Model
from glm_edge.model.gguf import read_gguf
from glm_edge.model.keys import GPTQ
from glm_edge.tools import compensation
from glm_edge.tools.imatrix import measure
from glm_edge.tools.verify import verify
from support.commands import done

COLUMNS, CHUNK = 640, 512  # not a whole number of groups
Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def whole(small_checkpoint: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a run that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole") / "x.gguf"
    assert done("convert", small_checkpoint, "--out", out, "--gptq", "--text", text, "--threads", 1) == 0
    assert [path.name for path in out.parent.iterdir()] == ["x.gguf"]
    return out


@pytest.mark.parametrize("type_name", sorted(COMPENSATED))
def test_each_type_loses_much_less_of_a_product_than_by_the_search_for_scales(type_name: str) -> None:
    draw = np.random.default_rng(5)
    columns = COLUMNS if gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type_name.upper()]][0] == 32 else 512
    x = draw.standard_normal((700, columns)) @ (np.eye(columns) + draw.standard_normal((columns, columns)) / 16)
    rows = (0.02 * draw.standard_t(5, (64, columns))).astype(np.float32)
    h = np.zeros((columns, columns), np.float32)
    for part in np.array_split(x.astype(np.float32), 2):
        add_products(h, part)
    importance = np.diagonal(h).copy()
    factor(h, len(x))
    errors = []
    for data in (
        compensated(type_name, rows, h, importance),
        quantize_rows(type_name, rows, importance, searched=True),
    ):
        found = gguf.dequantize(data, gguf.GGMLQuantizationType[type_name.upper()])
        errors.append(np.square((found - rows) @ x.T).sum())
    assert errors[0] < 0.6 * errors[1]


def test_the_files_matrices_lose_less_on_the_texts_inputs_than_without(
    small_checkpoint: Path, text: Path, whole: Path, tmp_path: Path
) -> None:
    plain_file = convert(small_checkpoint, tmp_path / "plain.gguf").path
    half = convert(small_checkpoint, tmp_path / "f16.gguf", type="f16").path
    inputs: dict[str, Floats] = {}

    def keep(name: str, x: Floats) -> None:
        inputs[name] = x.copy()

    with closing(Model(half, load_mode="mmap", repack=False)) as model:
        measure(model, text.read_text("utf-8"), CHUNK, 1, keep=keep)
    weights = [matrices(path) for path in (half, plain_file, whole)]
    for name, x in inputs.items():
        exact, plain, found = (by_name[name] for by_name in weights)
        errors = [np.linalg.norm((one - exact) @ x.T) for one in (found, plain)]
        assert errors[0] < 0.9 * errors[1], name
    assert read_gguf(whole).metadata[GPTQ] == "512 tokens"
    verify(whole)


def matrices(path: Path) -> dict[str, Floats]:
    """As the gguf package reads them: another implementation than libggml's."""
    found = gguf.GGUFReader(path).tensors
    return {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in found if len(tensor.shape) > 1}


def test_interrupted_the_same_command_continues_to_the_same_bytes(
    small_checkpoint: Path,
    text: Path,
    whole: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ("convert", small_checkpoint, "--out", out, "--gptq", "--text", text, "--threads", 1)
    compensate = compensation.compensate

    def interrupted(tensors: Any, folder: Any, threads: int, _: Callable[[int, int], None]) -> Any:
        ends = [sum(one.tensor.rows * one.tensor.columns for one in tensors[:count]) for count in (1, 2, 3)]

        def progress(weights: int, total: int) -> None:
            if weights > ends[2]:
                raise KeyboardInterrupt

        return compensate(tensors, folder, threads, progress)

    monkeypatch.setattr(compensation, "compensate", interrupted)
    assert done(*command) == 130
    monkeypatch.undo()
    shown = capsys.readouterr().err.splitlines()
    assert shown[-2:] == [f"{out}.gptq: stays, and the same command continues with it", "error: interrupted"]
    folder = out.with_name("x.gguf.gptq")
    names = {path.name for path in folder.iterdir()}
    assert len([name for name in names if name.endswith(".rounded")]) == 3
    assert len([name for name in names if name.endswith(".inputs")]) == 5  # those of the three are gone
    assert not out.exists()

    assert done("convert", small_checkpoint, "--out", out, "--gptq", "--text", text, "--type", "q4_0") == 2
    assert "has what is done of another checkpoint, type or text" in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == names

    for name in ("imatrix.gguf", next(name for name in names if name.endswith(".rounded"))):
        kept = (folder / name).read_bytes()
        for data in (kept[:-1] + b"!", None):
            (folder / name).unlink() if data is None else (folder / name).write_bytes(data)
            assert done(*command) == 4
            assert f"remove {folder} and begin again" in capsys.readouterr().err
        (folder / name).write_bytes(kept)

    (folder / "mine").write_text("mine")
    (folder / "blk.9.ffn_up.weight.inputs").mkdir()
    assert done(*command) == 0
    assert "3 of 8 matrices are done" in capsys.readouterr().err
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["blk.9.ffn_up.weight.inputs", "mine"]


def test_a_checkpoint_that_changes_after_its_matrices_are_rounded_is_refused(
    small_checkpoint: Path, text: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = shutil.copytree(small_checkpoint, out.parent / "checkpoint")
    compensate = compensation.compensate

    def changed(*arguments: Any) -> Any:
        rounded = compensate(*arguments)
        os.utime(next(checkpoint.glob("pytorch_model*.bin")), (1, 1))
        return rounded

    monkeypatch.setattr(compensation, "compensate", changed)
    assert done("convert", checkpoint, "--out", out, "--gptq", "--text", text, "--threads", 1) == 4
    shown = capsys.readouterr().err
    assert f"error: {checkpoint}: changed meanwhile; remove {out}.gptq and begin again" in shown
    assert "the same command continues with it" not in shown
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--imatrix", "i"), "--gptq makes an importance matrix and --imatrix gives one"),
        (("--type", "q8_0"), "no matrix of type q8_0 can be compensated"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    small_checkpoint: Path, out: Path, options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert done("convert", small_checkpoint, "--out", out, "--gptq", *options) == 2
    assert said in capsys.readouterr().err
    assert not list(out.parent.iterdir())


def test_pull_says_how_to_do_it(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert done("pull", "owner/name", "--out", out, "--gptq") == 2
    assert "run: glm-edge convert FOLDER --type edge --gptq" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["file", "folder", "journal"])
def test_what_others_have_in_the_folders_place_stays(
    small_checkpoint: Path, out: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = out.with_name("x.gguf.gptq")
    if what == "file":
        place.write_text("mine")
    else:
        place.mkdir()
        (place / ("imatrix.gguf" if what == "folder" else "journal.json")).write_text(json.dumps(["mine"]))
    before = [path.read_bytes() for path in out.parent.rglob("*") if path.is_file()]
    assert done("convert", small_checkpoint, "--out", out, "--gptq") == 2
    assert f"error: {place}: is " in capsys.readouterr().err
    assert [path.read_bytes() for path in out.parent.rglob("*") if path.is_file()] == before


def test_too_little_disk_is_said_before_anything_is_converted(
    small_checkpoint: Path, text: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(out.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    assert done("convert", small_checkpoint, "--out", out, "--gptq", "--text", text) == 6
    needed, refused = capsys.readouterr().err.splitlines()
    assert "of memory and less than a minute; interrupted after measuring, the same command continues" in needed
    assert "the disk has 1.000 MB free" in refused
    assert not list(out.parent.iterdir())


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (encoded(np.ones((3, 8), np.float32))[:-1], InvalidFileError, "has 47 bytes, and a row has 16"),
        (encoded(np.full((3, 8), np.nan, np.float32)), InvalidFileError, "not finite"),
        (encoded(np.ones((3, 8), np.float32)), IntegrityError, "is not what was written"),
    ],
    ids=["short", "not-a-number", "other"],
)
def test_inputs_that_are_not_what_was_written_are_refused(
    tmp_path: Path, data: bytes, error: type[Exception], said: str
) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(error, match=said):
        list(Inputs(StableFile.find(tmp_path / "x"), 8, "0" * 64).read())
