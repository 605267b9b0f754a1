"""The shards' CRCs, checked while their rows are read: every flipped bit of a weight is noticed."""

import itertools
import random
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest

from glm_edge.convert.convert import convert
from glm_edge.convert.source.archive import open_archive
from glm_edge.convert.source.checksum import Checksum, combine
from glm_edge.convert.source.shard import SMALL, open_shard
from glm_edge.errors import InvalidFileError
from support.checkpoints.small_checkpoint import write_checkpoint
from support.checkpoints.torch_writer import Member, integer, state_dict_pickle, write_archive

CONTENT = random.Random(5).randbytes(10_000)


@pytest.mark.parametrize("split", [0, 1, 7, 4096, 9999, 10_000])
def test_two_crcs_combine_into_that_of_both(split: int) -> None:
    first, second = CONTENT[:split], CONTENT[split:]
    assert combine(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(CONTENT)


def pieces(seed: int) -> list[tuple[int, memoryview]]:
    """CONTENT at offset 100 of a file, in pieces of any size and order."""
    draw = random.Random(seed)
    cuts = sorted({0, len(CONTENT), *(draw.randrange(len(CONTENT)) for _ in range(20))})
    found = [(100 + a, memoryview(CONTENT)[a:b]) for a, b in itertools.pairwise(cuts)]
    draw.shuffle(found)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_pieces_may_come_in_any_order_from_any_thread(seed: int) -> None:
    checksum = Checksum(Path("x"), "data/0", 100, len(CONTENT), zlib.crc32(CONTENT))
    found = pieces(seed)
    threads = [
        threading.Thread(target=lambda part: [checksum.add(*piece) for piece in part], args=(found[n::3],))
        for n in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wrong = Checksum(Path("x"), "data/0", 100, len(CONTENT), zlib.crc32(CONTENT) ^ 1)
    for piece in found[:-1]:
        wrong.add(*piece)
    with pytest.raises(
        InvalidFileError, match=r"x: data/0 is damaged: CRC [0-9a-f]{8}, recorded [0-9a-f]{8}; download"
    ):
        wrong.add(*found[-1])


def test_pieces_that_are_read_again_change_nothing() -> None:
    checksum = Checksum(Path("x"), "data/0", 0, len(CONTENT), zlib.crc32(CONTENT))
    for _ in range(2):
        checksum.add(0, memoryview(CONTENT)[:6000])
    checksum.add(6000, memoryview(CONTENT)[6000:])
    checksum.add(6000, memoryview(b"something else"))


@pytest.mark.case("M9")
def test_a_bit_flipped_in_any_tensor_stops_the_conversion(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "model")
    shard = checkpoint / "pytorch_model.bin"
    content = shard.read_bytes()
    members = [member for name, member in open_archive(shard).members.items() if name.startswith("data/")]
    draw = random.Random(9)
    for member in members:  # the rotary frequencies, which no file of ours holds, among them
        place = member.offset + draw.randrange(member.size)
        shard.write_bytes(content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :])
        # A flip may also make a number that no file may hold; most do not.
        with pytest.raises(InvalidFileError, match=f"{member.name} is damaged|not a finite number"):
            convert(checkpoint, tmp_path / "x.gguf", type="f32", threads=2)
        assert list(tmp_path.iterdir()) == [checkpoint]


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
