"""Two conversions to one output, and what killed ones leave: at no moment is there a torn file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from glm_edge.cli import glm_edge, run
from glm_edge.convert.convert import convert
from glm_edge.convert.quantize.recipe import LayerRule
from glm_edge.convert.recipes import RECIPES
from glm_edge.errors import StorageError, UsageError
from glm_edge.tools.verify import verify
from support.checkpoints.small_checkpoint import CONFIG, write_checkpoint

NO_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills children that it forks")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "x.gguf"


# Stops in the middle of its work, says so, and goes on when its input ends.
HOLDER = """
import sys
from pathlib import Path
from glm_edge.convert.convert import convert
def wait(done, total):
    print("ready", flush=True)
    sys.stdin.read()
convert(Path(sys.argv[1]), Path(sys.argv[2]), progress=wait)
"""


@pytest.mark.case("V8")
def test_the_second_conversion_to_an_output_is_exit_6_and_a_killed_one_holds_nothing(
    small_checkpoint: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-c", HOLDER, str(small_checkpoint), str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        before = sorted(out.parent.iterdir())
        arguments = ["convert", str(small_checkpoint), "--out", str(out)]
        assert run(glm_edge, arguments, prog_name="glm-edge") == 6
        assert f"{out}: locked by pid {child.pid}, " in capsys.readouterr().err
        assert sorted(out.parent.iterdir()) == before
        convert(small_checkpoint, out.with_name("y.gguf")).path.unlink()  # another output beside it
        child.kill()
    assert sorted(out.parent.iterdir()) == before  # what it left: a lock and a temporary
    convert(small_checkpoint, out)
    assert list(out.parent.iterdir()) == [out]
    verify(out)


@pytest.mark.case("V8")
def test_two_threads_of_a_process_exclude_each_other_too(small_checkpoint: Path, out: Path) -> None:
    errors: list[str] = []

    def meanwhile(done: int, total: int) -> None:
        if not errors:
            with pytest.raises(StorageError) as caught:
                convert(small_checkpoint, out, force=True)
            errors.append(str(caught.value))

    convert(small_checkpoint, out, progress=meanwhile)
    assert f"locked by pid {os.getpid()}" in errors[0]
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.case("V8")
@pytest.mark.parametrize("text", [b"", b"999999999", b"\xff" * 100, b"1"], ids=["empty", "dead", "garbage", "init"])
def test_a_stale_lock_is_taken_whatever_it_says(small_checkpoint: Path, out: Path, text: bytes) -> None:
    (out.parent / ".x.gguf.lock").write_bytes(text)
    convert(small_checkpoint, out)
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.case("V8")
def test_temporaries_of_the_same_output_go_and_no_other_file(small_checkpoint: Path, out: Path) -> None:
    stale = [".x.gguf.1.tmp", f".x.gguf.{os.getpid()}.tmp", ".x.gguf.99999.old"]
    others = [".y.gguf.1.tmp", ".x.gguf.tmp", "x.gguf.1.tmp", ".x.gguf.1.tmp.txt", ".xxgguf.1.tmp"]
    for name in [*stale, *others]:
        (out.parent / name).write_bytes(b"left")
    convert(small_checkpoint, out)
    assert {path.name for path in out.parent.iterdir()} == {out.name, *others}


@pytest.mark.case("V8")
def test_long_names_with_the_same_start_do_not_share_a_lock(small_checkpoint: Path, out: Path) -> None:
    first, second = (out.with_name(f"{'长' * 78}{letter}.gguf") for letter in "ab")
    made = []

    def meanwhile(done: int, total: int) -> None:
        if not made:
            made.append(convert(small_checkpoint, second).path)

    convert(small_checkpoint, first, progress=meanwhile)
    assert sorted(out.parent.iterdir()) == [first, second]


@pytest.mark.case("V7")
def test_an_output_that_appears_after_the_first_check_is_not_replaced(small_checkpoint: Path, out: Path) -> None:
    def appear(layer: int, layers: int) -> bool:
        out.write_bytes(b"another's")
        return True

    recipe = replace(RECIPES["q4_0"], special={"output": (LayerRule("q6_k", appear),)})
    with pytest.raises(UsageError, match="exists"):
        convert(small_checkpoint, out, type=recipe)
    assert list(out.parent.iterdir()) == [out]
    assert out.read_bytes() == b"another's"


def test_a_link_in_the_place_of_the_lock_is_refused(small_checkpoint: Path, out: Path) -> None:
    target = out.parent / "precious"
    target.write_bytes(b"content")
    (out.parent / ".x.gguf.lock").symlink_to(target)
    with pytest.raises(StorageError, match="cannot be written"):
        convert(small_checkpoint, out)
    assert target.read_bytes() == b"content"
    assert not out.exists()


# Forks children that convert and get SIGKILL: at the k-th call that changes the folder, for every k, then at random
# moments of the time that a conversion takes. Prints what lay at the output after each.
KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path
from glm_edge.convert.convert import convert

checkpoint, out = map(Path, sys.argv[1:])
CALLS = ("open", "write", "fsync", "close", "replace", "unlink", "link", "lseek")
real = {name: getattr(os, name) for name in CALLS}
count = 0

def die_at(k):
    def wrapped(name):
        def call(*args, **options):
            global count
            count += 1
            if count == k:
                real_kill(os.getpid(), signal.SIGKILL)
            return real[name](*args, **options)
        return call
    for name in CALLS:
        setattr(os, name, wrapped(name))

real_kill = os.kill
old = convert(checkpoint, out, type="q8_0", threads=1).path.read_bytes()
began = time.monotonic()
new = convert(checkpoint, out, type="q4_0", force=True, threads=1).path.read_bytes()
took = time.monotonic() - began
seen = []

def attempt(k, moment):
    out.write_bytes(old)
    child = os.fork()
    if not child:
        die_at(k)
        convert(checkpoint, out, type="q4_0", force=True, threads=1)
        os._exit(0)
    if moment is not None:
        time.sleep(moment)  # any moment: no event stands for it
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    content = out.read_bytes()
    seen.append("old" if content == old else "new" if content == new else "torn")
    return os.WIFSIGNALED(status)

k = 1
while attempt(k, None):
    k += 1
random.seed(1)
for _ in range(20):
    attempt(0, random.uniform(0, 1.1 * took))
convert(checkpoint, out, type="q4_0", force=True, threads=1)
print(json.dumps([k, seen, sorted(os.listdir(out.parent)), out.read_bytes() == new]))
"""


@pytest.mark.case("V3")
@NO_FORK
def test_a_kill_at_any_call_or_moment_leaves_the_old_file_or_the_new_one(tmp_path: Path, out: Path) -> None:
    tiny = CONFIG | {"hidden_size": 64, "kv_channels": 16, "ffn_hidden_size": 96, "num_layers": 1}
    checkpoint = write_checkpoint(tmp_path / "model", config=tiny | {"padded_vocab_size": 384})
    command = [sys.executable, "-W", "ignore", "-c", KILLER, str(checkpoint), str(out)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # no threads at the time of a fork
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    calls, seen, left, same = json.loads(done.stdout)
    assert calls > 20
    assert len(seen) == calls + 20
    assert set(seen) == {"old", "new"}
    assert left == [out.name]
    assert same
