"""The pickle machine: reads state dicts as torch writes them and does nothing else."""

import os
import pickle
import runpy
import struct
import sys
import time
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from operator import methodcaller
from pathlib import Path
from random import Random
from typing import Any

import pytest

from glm_edge.convert.source.storage import PickledTensor, Storage
from glm_edge.convert.source.unpickle import MAX_OPCODES, MAX_PICKLE, read_state_dict
from glm_edge.errors import GlmEdgeError, InvalidFileError
from support.checkpoints.torch_writer import integer, state_dict_pickle, text

PATH = Path("shard.bin")
PLAIN = state_dict_pickle([("w", (2, 3), "f16"), ("b", (2,), "f32")])
EXPECTED = {
    "w": PickledTensor(Storage("0", "f16", 6), 0, (2, 3)),
    "b": PickledTensor(Storage("1", "f32", 2), 0, (2,)),
}


def refused(content: bytes) -> str:
    with pytest.raises(InvalidFileError) as caught:
        read_state_dict(content, PATH)
    message = str(caught.value)
    assert message.startswith("shard.bin: ")
    assert message.isprintable()
    assert len(message) < 400
    return message


def tensor(
    shape: bytes = b"K\x02K\x03\x86",
    strides: bytes = b"K\x03K\x01\x86",
    *,
    offset: bytes = b"K\0",
    length: bytes = b"K\x06",
    key: bytes = text("0"),
    kind: bytes = b"ctorch\nHalfStorage\n",
    hooks: bytes = b"}",
) -> bytes:
    """The opcodes that make a tensor of 2 x 3, or another where told."""
    storage = b"(" + text("storage") + kind + key + text("cpu") + length + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + shape + strides + b"\x89" + hooks + b"tR"


def state(*items: bytes) -> bytes:
    return b"\x80\x02}(" + b"".join(items) + b"u."


def test_the_tensors_come_in_the_files_order() -> None:
    assert list(read_state_dict(PLAIN, PATH).items()) == list(EXPECTED.items())


def test_a_module_state_dict_with_versions_and_parameters() -> None:
    """As torch.save(module.state_dict()) writes it: an OrderedDict with an attribute `_metadata`."""
    ordered = b"ccollections\nOrderedDict\n)R"
    parameter = b"ctorch._utils\n_rebuild_parameter\n" + tensor() + b"\x88" + ordered + b"\x87R"
    versions = ordered + text("") + b"}" + text("version") + b"K\x01ss"
    content = b"\x80\x02" + ordered + text("w") + parameter + b"s}" + text("_metadata") + versions + b"sb."
    assert read_state_dict(content, PATH) == {"w": EXPECTED["w"]}


def test_a_pickle_of_protocol_4() -> None:
    """Frames, short text, names from the stack, memo without numbers."""
    names = b"\x8c\x0ctorch._utils\x94\x8c\x12_rebuild_tensor_v2\x94\x93\x94"
    body = b"}\x94(\x8c\x01w\x94" + tensor().replace(b"ctorch._utils\n_rebuild_tensor_v2\n", names) + b"u."
    content = b"\x80\x04\x95" + struct.pack("<Q", len(body)) + body
    assert read_state_dict(content, PATH) == {"w": EXPECTED["w"]}


def test_a_tensor_of_more_than_two_to_the_31_values() -> None:
    shape = (65536, 65536)
    (found,) = read_state_dict(state_dict_pickle([("w", shape, "f16")]), PATH).values()
    assert (found.shape, found.storage.length) == (shape, 1 << 32)


@pytest.mark.parametrize(
    ("shape", "strides", "expected"),
    [(b")", b")", ()), (b"K\x01K\x06\x86", b"K\x63K\x01\x86", (1, 6)), (b"K\x05\x85", b"K\x01\x85", (5,))],
    ids=["scalar", "stride of a dimension of one", "first part"],
)
def test_contiguous_tensors(shape: bytes, strides: bytes, expected: tuple[int, ...]) -> None:
    assert read_state_dict(state(text("w") + tensor(shape, strides)), PATH)["w"].shape == expected


class Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


CANARY = "canary-of-the-pickle-test"
HOSTILE = {
    "os.system": Call(os.system, f"echo > {CANARY}"),
    "builtins.eval": Call(eval, f"open({CANARY!r}, 'w')"),
    "builtins.getattr": Call(getattr, "text", "upper"),
    "operator.methodcaller": methodcaller("system", f"echo > {CANARY}"),
    "runpy.run_path": Call(runpy.run_path, CANARY),
    "collections.Counter": Call(__import__("collections").Counter, "abc"),
}


@pytest.mark.case("M10")
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", HOSTILE)
def test_a_call_is_refused_by_its_name(
    name: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps(HOSTILE[name], protocol)
    before = set(sys.modules)
    message = refused(content)
    names = {name, name.replace("os.", "posix."), name.replace("os.", "nt."), name.replace("builtins", "__builtin__")}
    assert any(f"pickle global {name} is not allowed" in message for name in names)
    assert not list(tmp_path.iterdir())
    assert set(sys.modules) == before


@pytest.mark.case("M10")
@pytest.mark.parametrize(
    "name",
    [
        "pip main",
        "pty spawn",
        "profile run",
        "torch.jit load",
        "torch load",
        "torch._utils _rebuild_qtensor",
        "torch._utils _rebuild_sparse_tensor",
        "torch ComplexFloatStorage",
        "torch.storage _load_from_bytes",
        "torch _utils._rebuild_tensor_v2",
        "collections OrderedDict.fromkeys",
        "antigravity x",
    ],
)
def test_a_name_that_is_not_in_the_table_is_not_imported(name: str) -> None:
    module, attribute = name.split()
    before = set(sys.modules)
    said = f"pickle global {module}.{attribute} is not allowed"
    assert said in refused(f"\x80\x02c{module}\n{attribute}\n.".encode("latin-1"))
    assert said in refused(b"\x80\x04" + text(module) + b"\x94" + text(attribute) + b"\x94h\0h\1\x93.")
    assert set(sys.modules) == before


@pytest.mark.case("M10")
@pytest.mark.parametrize(
    ("code", "name"),
    [
        (b"(cos\nsystem\nS'true'\no.", "pickle global os.system"),
        (b"(S'true'\nios\nsystem\n.", "STRING"),
        (b"(ios\nsystem\n.", "INST"),
        (b"}(o.", "OBJ"),
        (b"})\x81.", "NEWOBJ"),
        (b"})}\x92.", "NEWOBJ_EX"),
        (b"\x82\x01.", "EXT1"),
        (b"\x83\x01\0.", "EXT2"),
        (b"\x84\x01\0\0\0.", "EXT4"),
        (b"Pos.system\n.", "PERSID"),
        (b"}}b.", "BUILD is allowed on an OrderedDict only"),
        (b"ccollections\nOrderedDict\n}b.", "BUILD is allowed on an OrderedDict only"),
        (b"]].", "EMPTY_LIST"),
        (b"\x97.", "NEXT_BUFFER"),
        (b"G" + bytes(8) + b".", "BINFLOAT"),
        (b"\xff.", r"b'\xff'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_opcodes_that_make_objects_are_refused(code: bytes, name: str) -> None:
    assert name in refused(b"\x80\x02" + code)


@pytest.mark.case("M11")
@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02\x8b\xff\xff\xff\x7f",
        b"\x80\x02\x8d" + struct.pack("<Q", 1 << 63),
        b"\x80\x02X\xff\xff\xff\xff",
        b"\x80\x02\x8a\xff" + b"\x7f" * 255 + b".",
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"}.",
        b"\x80\x02" + b"(" * (MAX_PICKLE - 3) + b".",
        b"\x80\x02" + b"}" * (MAX_PICKLE - 3) + b".",
        b"\x80\x02)" + b"\x85" * (MAX_PICKLE - 4) + b".",
        b"\x80\x02}" + b"r\xff\xff\xff\x7f" * 90_000,
        b"\x80\x02)q\0" + b"h\0h\0h\0\x87q\0" * 15_000 + b".",
        b"\x80\x02" + b"(" * 45_000 + b"t" * 45_000 + b".",
        b"\x80\x02" + bytes(MAX_PICKLE),
        b"\x80\x02(" + text("x" * 1000) + (b"q\0" + b"h\0" * 50) * 2000 + b"t.",
    ],
    ids=["LONG4", "BINUNICODE8", "BINUNICODE", "LONG1", "FRAME", "marks", "dicts", "nested tuples", "memo indices",
         "doubling", "nested marks", "too long", "repeated text"],
)  # fmt: skip
def test_a_bomb_goes_off_small(content: bytes) -> None:
    tracemalloc.start()
    start = time.process_time()
    try:
        refused(content)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 20  # without tracing well under a second


@pytest.mark.case("M11")
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "ends in the middle"),
        (PLAIN[:-1], "ends in the middle"),
        (PLAIN + b".", "1 bytes follow the pickle's end"),
        (PLAIN[:-1] + b"}.", "more than one object"),
        (b"\x80\x02.", "takes an object that is not there"),
        (b"\x80\x02(.", "takes an object that is not there"),
        (b"\x80\x02t.", "goes back to a mark that is not there"),
        (b"\x80\x02h\x07.", "memo 7 is read before it is written"),
        (b"\x80\x06}.", "pickle protocol 6"),
        (b"}\x80\x02.", "not at its beginning"),
        (b"\x80\x02cos\nsystem", "ends in the middle"),
        (b"\x80\x02).", "holds a tuple where a dict of tensors"),
        (b"\x80\x02)(u.", "items are set in what is no dict"),
        (state(text("w")), "items are set in what is no dict"),
        (state(b"K\x01K\x01"), "the key 1 is no text or there twice"),
        (state(text("w") + tensor(), text("w") + tensor()), "the key 'w' is no text or there twice"),
        (state(text("w") + b"K\x01"), "w is a int where a tensor is expected"),
        (state(text("state_dict") + b"}"), "state_dict is a dict where a tensor is expected"),
        (state(text("a\nb") + tensor()), r"'a\nb' is no name of a tensor"),
        (state(text("") + tensor()), "'' is no name of a tensor"),
        (state(text("x" * 300) + tensor()), "is no name of a tensor"),
        (b"\x80\x02X\x01\0\0\0\xff.", "text that is not UTF-8"),
        (b"\x80\x02}}R.", "a dict is called"),
    ],
)
def test_a_pickle_of_another_form_is_refused(content: bytes, what: str) -> None:
    assert what in refused(content)


@pytest.mark.case("M13")
@pytest.mark.parametrize(
    ("made", "what"),
    [
        (tensor(length=b"K\x05"), "goes beyond its storage of 5 values"),
        (tensor(offset=b"K\x01"), "at 1 goes beyond its storage of 6"),
        (tensor(offset=integer(-1)), "not integers from 0 on"),
        (tensor(offset=b"\x88"), "not integers from 0 on"),
        (tensor(shape=integer(-2) + integer(-3) + b"\x86"), "not integers from 0 on"),
        (tensor(shape=text("2") + b"K\x03\x86"), "not integers from 0 on"),
        (tensor(shape=integer(1 << 62) * 2 + b"\x86", strides=integer(1 << 62) + b"K\x01\x86"), "goes beyond"),
        (tensor(shape=b"K\0K\x03\x86"), "has no values"),
        (tensor(shape=b"K\x06\x85"), "not contiguous"),
        (tensor(strides=b"K\x01K\x02\x86"), "with strides (1, 2) is not contiguous"),
        (tensor(strides=b"K\0K\x01\x86"), "with strides (0, 1) is not contiguous"),
        (tensor(shape=b"(" + b"K\x01" * 99 + b"t"), "a tensor of 99 dimensions"),
        (tensor(length=integer(-1)), "a storage of -1 values"),
        (tensor(length=b"\x88"), "a storage of True values"),
        (tensor(key=text("../0")), "storage key '../0' is no number"),
        (tensor(key=text("٣")), "is no number"),
        (tensor(kind=b"ccollections\nOrderedDict\n"), "a persistent id that is no storage"),
        (tensor(hooks=b"N"), "a tensor is made from what it cannot be made from"),
        (tensor(hooks=b"}}"), "a tensor is made from what it cannot be made from"),
        (tensor() + text("b") + tensor(kind=b"ctorch\nFloatStorage\n"), "storage 0 is described in two ways"),
    ],
)  # fmt: skip
def test_a_tensor_that_is_not_plain_is_refused(made: bytes, what: str) -> None:
    assert what in refused(state(text("w") + made))


@pytest.mark.case("M21")
def test_random_changes_give_our_error_or_tensors() -> None:
    random = Random(0)
    for _ in range(3000):
        content = bytearray(PLAIN)
        for _ in range(random.randrange(1, 4)):
            content[random.randrange(len(content))] = random.choice(b"\x80}(XctR.uQq\x85h\x8a\xff\0")
        try:
            found = read_state_dict(bytes(content), PATH)
        except GlmEdgeError:
            continue
        assert all(isinstance(value, PickledTensor) for value in found.values())


def test_the_limit_leaves_room_for_the_real_model() -> None:
    """Its 200 tensors in one file, twice over for scales, take a tenth of what is allowed."""
    content = state_dict_pickle((f"transformer.encoder.layers.{n}.weight", (2, 2), "f16") for n in range(400))
    assert len(content) * 10 < MAX_PICKLE
    assert len(pickle.dumps(OrderedDict())) < len(content) < MAX_OPCODES
    assert len(read_state_dict(content, PATH)) == 400
