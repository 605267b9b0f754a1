"""The pickle inside a torch shard, read by a machine of our own that knows 30 opcodes and imports nothing.

A state dict needs text, small integers, tuples, dicts and a few global names. The names are data in a table here: any
other is refused, and none is called. Python's Unpickler with a restricted `find_class` would still run BUILD, NEWOBJ
and EXT, and one opcode can make it take memory without limit (a memo index of 2^31). Opcodes: CPython
`Lib/pickletools.py`. What torch writes: `torch/serialization.py`, `torch/_utils.py`. Not here: whether the storages
exist (`shard.py`).
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from glm_edge.errors import InvalidFileError

from .files import is_plain, shown
from .storage import STORAGES, PickledTensor, Storage, place

MAX_PICKLE = 1 << 20  # bytes; the largest shard of the real checkpoint has 8 KB
MAX_OPCODES = 100_000  # about 26 a tensor; limits the memory, because an opcode makes one small object at most


@dataclass(frozen=True)
class _Global:
    """A global name that the pickle may use; `_Machine.reduce` decides what it makes."""

    role: Literal["tensor", "parameter", "ordered dict", "storage"]
    storage: str = ""


_GLOBALS = {
    ("torch._utils", "_rebuild_tensor_v2"): _Global("tensor"),
    ("torch._utils", "_rebuild_parameter"): _Global("parameter"),
    ("collections", "OrderedDict"): _Global("ordered dict"),
    **{("torch", name): _Global("storage", name) for name in STORAGES},
}


class _OrderedDict(dict[object, object]):
    """The result of `collections.OrderedDict()`. Only this may get attributes (`_metadata`), which are dropped."""


_MARK = object()
_OPCODE_NAMES = {opcode.code.encode("latin-1"): opcode.name for opcode in pickletools.opcodes}


def read_state_dict(content: bytes, path: Path) -> dict[str, PickledTensor]:
    """The tensors that a data.pkl names, in its order. `path` is for messages.

    Raises InvalidFileError for anything but a flat dict of plain tensors, written as torch writes it.
    """
    if len(content) > MAX_PICKLE:
        raise InvalidFileError(f"{path}: its pickle has {len(content)} bytes, more than the limit of {MAX_PICKLE}")
    result = _Machine(content, path).run()
    if not isinstance(result, dict):
        raise InvalidFileError(f"{path}: holds {_kind(result)} where a dict of tensors is expected")
    tensors: dict[str, PickledTensor] = {}
    for name, value in result.items():
        if not isinstance(name, str) or not is_plain(name):
            raise InvalidFileError(f"{path}: {shown(name)} is no name of a tensor")
        if not isinstance(value, PickledTensor):
            raise InvalidFileError(f"{path}: {name} is {_kind(value)} where a tensor is expected")
        tensors[name] = value
    return tensors


def _kind(value: object) -> str:
    return f"a {type(value).__name__.strip('_')}"


class _Machine:
    """The machine that runs one pickle.

    Its stack holds str, int, bool, None, tuple, dict, _Global, Storage, PickledTensor and _MARK.
    """

    def __init__(self, content: bytes, path: Path) -> None:
        self.content, self.path = content, path
        self.position = self.opcode_at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, object] = {}
        self.storages: dict[str, Storage] = {}

    def run(self) -> object:
        for _ in range(MAX_OPCODES):
            self.opcode_at = self.position
            code = self.take(1)
            if code == b".":
                break
            action = _ACTIONS.get(code)
            if action is None:
                self.refuse(f"pickle opcode {_OPCODE_NAMES.get(code, shown(code))} is not allowed")
            action(self)
        else:
            self.refuse(f"more than {MAX_OPCODES} opcodes")
        if self.position != len(self.content):
            self.refuse(f"{len(self.content) - self.position} bytes follow the pickle's end")
        result = self.pop()
        if self.stack:
            self.refuse("the pickle ends with more than one object")
        return result

    def refuse(self, what: str) -> NoReturn:
        raise InvalidFileError(f"{self.path}: {what} (data.pkl, byte {self.opcode_at})")

    # Reading the content and the stack

    def take(self, count: int) -> bytes:
        taken = self.content[self.position : self.position + count]
        if len(taken) < count:
            self.refuse("the pickle ends in the middle")
        self.position += count
        return taken

    def number(self, layout: str) -> int:
        (value,) = struct.unpack(layout, self.take(struct.calcsize(layout)))
        return int(value)

    def line(self) -> str:
        end = self.content.find(b"\n", self.position)
        if end < 0:
            self.refuse("the pickle ends in the middle")
        taken = self.take(end + 1 - self.position)
        return taken[:-1].decode("utf-8", "backslashreplace")

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            self.refuse("the pickle takes an object that is not there")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        start = len(self.stack) - 1
        while start >= 0 and self.stack[start] is not _MARK:
            start -= 1
        if start < 0:
            self.refuse("the pickle goes back to a mark that is not there")
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items

    # Opcodes

    def protocol(self) -> None:
        if (version := self.take(1)[0]) > 5 or self.opcode_at:
            self.refuse(f"pickle protocol {version}, or not at its beginning")

    def frame(self) -> None:
        if self.number("<Q") > len(self.content) - self.position:
            self.refuse("a frame goes beyond the pickle")

    def text(self, layout: str) -> None:
        try:
            self.stack.append(self.take(self.number(layout)).decode("utf-8"))
        except UnicodeDecodeError:
            self.refuse("text that is not UTF-8")

    def long(self) -> None:
        size = self.number("<B")
        if size > 8:
            self.refuse(f"an integer of {size} bytes")
        self.stack.append(int.from_bytes(self.take(size), "little", signed=True))

    def make_tuple(self, size: int) -> None:
        items = [self.pop() for _ in range(size)]
        self.stack.append(tuple(reversed(items)))

    def put(self, layout: str) -> None:
        index = self.number(layout)
        self.memo[index] = self.top()

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.top()

    def top(self) -> object:
        self.stack.append(value := self.pop())
        return value

    def get(self, layout: str) -> None:
        index = self.number(layout)
        if index not in self.memo:
            self.refuse(f"memo {index} is read before it is written")
        self.stack.append(self.memo[index])

    def find(self, module: object, name: object) -> None:
        found = _GLOBALS.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if found is None:
            full = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "without a name"
            self.refuse(f"pickle global {full if is_plain(full) else shown(full)} is not allowed")
        self.stack.append(found)

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.find(module, name)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1] if self.stack else None
        if not isinstance(target, dict) or len(items) % 2:
            self.refuse("items are set in what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str) or key in target:
                self.refuse(f"the key {shown(key)} is no text or there twice")
            target[key] = value

    def build(self) -> None:
        state, target = self.pop(), self.pop()
        if not isinstance(state, dict) or not isinstance(target, _OrderedDict):
            self.refuse("pickle opcode BUILD is allowed on an OrderedDict only")
        self.stack.append(target)

    def persistent(self) -> None:
        match self.pop():
            case ("storage", _Global(role="storage", storage=kind), str(key), str(), length):
                pass
            case _:
                self.refuse("a persistent id that is no storage")
        if type(length) is not int or length < 0:
            self.refuse(f"a storage of {shown(length)} values")
        if not (key.isascii() and key.isdecimal() and len(key) <= 9):
            self.refuse(f"the storage key {shown(key)} is no number")
        storage = Storage(key, STORAGES[kind][0], length)
        if self.storages.setdefault(key, storage) != storage:
            self.refuse(f"storage {key} is described in two ways")
        self.stack.append(storage)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        match function, arguments:
            case _Global(role="ordered dict"), ():
                self.stack.append(_OrderedDict())
            case _Global(role="parameter"), (PickledTensor() as tensor, bool(), dict()):
                self.stack.append(tensor)
            case _Global(role="tensor"), (Storage(), _, tuple(), tuple(), bool(), dict()):
                try:
                    self.stack.append(place(*arguments[:4]))
                except ValueError as error:
                    self.refuse(str(error))
            case _Global(role=role), _:
                self.refuse(f"a {role} is made from what it cannot be made from")
            case _:
                self.refuse(f"{_kind(function)} is called")


_ACTIONS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.protocol,
    b"\x95": _Machine.frame,
    b"(": lambda m: m.stack.append(_MARK),
    b"N": lambda m: m.stack.append(None),
    b"\x88": lambda m: m.stack.append(True),
    b"\x89": lambda m: m.stack.append(False),
    b"K": lambda m: m.stack.append(m.number("<B")),
    b"M": lambda m: m.stack.append(m.number("<H")),
    b"J": lambda m: m.stack.append(m.number("<i")),
    b"\x8a": _Machine.long,
    b"X": lambda m: m.text("<I"),
    b"\x8c": lambda m: m.text("<B"),
    b")": lambda m: m.stack.append(()),
    b"\x85": lambda m: m.make_tuple(1),
    b"\x86": lambda m: m.make_tuple(2),
    b"\x87": lambda m: m.make_tuple(3),
    b"t": lambda m: m.stack.append(tuple(m.pop_to_mark())),
    b"}": lambda m: m.stack.append({}),
    b"s": lambda m: m.set_items(list(reversed([m.pop(), m.pop()]))),
    b"u": lambda m: m.set_items(m.pop_to_mark()),
    b"q": lambda m: m.put("<B"),
    b"r": lambda m: m.put("<I"),
    b"\x94": _Machine.memoize,
    b"h": lambda m: m.get("<B"),
    b"j": lambda m: m.get("<I"),
    b"c": lambda m: m.find(m.line(), m.line()),
    b"\x93": _Machine.stack_global,
    b"Q": _Machine.persistent,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
}
