"""The shards' CRCs, compared at opening or while rows are read: every flipped bit of a weight is noticed."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glm_edge.convert.convert import convert
from glm_edge.convert.source.archive import open_archive
from glm_edge.convert.source.checkpoint import open_checkpoint
from glm_edge.convert.source.lora import merge_lora
from glm_edge.convert.source.shard import SMALL, open_shard
from glm_edge.errors import InvalidFileError
from support.checkpoints.derived_checkpoints import CONFIG as LORA
from support.checkpoints.derived_checkpoints import quantized, write_lora
from support.checkpoints.small_checkpoint import CONFIG, random_weights, write_checkpoint
from support.checkpoints.torch_writer import Member, integer, state_dict_pickle, write_archive


@pytest.mark.case("M9")
@pytest.mark.parametrize("bits", [0, 4], ids=["floats", "int4"])
def test_a_bit_flipped_in_any_tensor_stops_the_conversion(tmp_path: Path, bits: int) -> None:
    weights: Any = quantized(bits) if bits else random_weights()
    checkpoint = write_checkpoint(tmp_path / "model", config=CONFIG | {"quantization_bit": bits}, weights=weights)
    shard = checkpoint / "pytorch_model.bin"
    content = shard.read_bytes()
    members = [member for name, member in open_archive(shard).members.items() if name.startswith("data/")]
    draw = random.Random(9)
    for member in members:  # the rotary frequencies, which no file of ours holds, among them
        place = member.offset + draw.randrange(member.size)
        shard.write_bytes(content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :])
        # A flip may also make a number that no file may hold; most do not.
        with pytest.raises(InvalidFileError, match=r"is damaged: CRC [0-9a-f]{8}, recorded|not a finite number"):
            convert(checkpoint, tmp_path / "x.gguf", type="f32", threads=2)
        assert list(tmp_path.iterdir()) == [checkpoint]


def test_a_bit_flipped_in_a_lora_of_any_size_is_noticed_when_it_is_opened(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    module = "base_model.model.transformer.encoder.layers.1.self_attention.dense"
    weights = {
        f"{module}.lora_A.weight": np.ones((32, 256), np.float32),
        f"{module}.lora_B.weight": np.ones((256, 32), np.float32),
    }
    assert all(part.nbytes > SMALL for part in weights.values())
    config = LORA | {"r": 32, "target_modules": ["layers.1.self_attention.dense"]}
    lora = write_lora(tmp_path / "lora", weights, config, torch=True)
    source = open_checkpoint(small_checkpoint)
    merge_lora(source, lora)
    path = lora / "adapter_model.bin"
    content = path.read_bytes()
    for member in open_archive(path).members.values():
        place = member.offset + member.size // 2
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(InvalidFileError, match=f"{member.name} is damaged"):
            merge_lora(source, lora)


def test_a_view_of_a_storage_is_checked_when_the_shard_is_opened(tmp_path: Path) -> None:
    """torch.save writes the whole storage of a slice; rows of the slice alone would never complete its checksum."""
    path = tmp_path / "a.bin"
    values = np.arange(SMALL, dtype=np.float32).tobytes()
    pickled = state_dict_pickle([("w", (SMALL,), "f32")])
    pickled = pickled.replace(integer(SMALL) + b"\x85", integer(SMALL // 2) + b"\x85")  # the shape, a tuple of one
    write_archive(path, [Member("data.pkl", len(pickled), [pickled]), Member("data/0", len(values), [values])])
    assert open_shard(path)["w"].shape == (SMALL // 2,)
    content = bytearray(path.read_bytes())
    content[content.index(values) + len(values) - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InvalidFileError, match="data/0 is damaged"):
        open_shard(path)
