"""Attacks by files and commands; one function a row, see `group_n.py`."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from support.checkpoints.fake_hub import REPO, Fault, Hub, files_of, serving
from support.checkpoints.small_checkpoint import write_checkpoint
from support.checkpoints.wide_checkpoint import shard, write_wide
from support.server.victim import SHORT, Place, Result, get, post


def n2(place: Place) -> Result:
    """Pipes, devices, folders and endless files as the files of options; a cache folder that others write."""
    pipe, endless = place.folder / "pipe", place.folder / "endless"
    os.mkfifo(pipe)
    endless.touch()
    os.truncate(endless, 1 << 40)
    codes = {}
    for path in (str(pipe), "/dev/zero", str(place.folder), str(endless)):
        for verb, *options in (("serve", "--port", "0", "--api-key-file", path), ("perplexity", path)):
            code, _, err = place.command(verb, *options, seconds=20)
            codes[f"{verb} {Path(path).name}"] = (code, err.count("\nerror: ") + err.startswith("error: "))
    cache = place.folder / "cache" / "glm-edge" / "prefixes"
    cache.mkdir(parents=True, exist_ok=True)
    cache.chmod(0o777)
    before = set(cache.iterdir())
    with place.serving() as target:
        target.ask(post({**SHORT, "messages": [{"role": "user", "content": "再说一遍。" * 60}]}))
        said = str(cache) in target.text()
    bad = {name: code for name, code in codes.items() if code[0] not in (3, 6) or code[1] != 1}
    left = set(cache.iterdir()) - before
    return not bad and said and not left, f"not refused in a line: {bad or 'none'}; cache of others said: {said}"


def n5(place: Place) -> Result:
    """Little memory, for verbs that load the engine and for those that convert."""
    checkpoint, out = write_checkpoint(place.folder / "checkpoint"), place.folder / "x.gguf"
    verbs = {
        "serve": ["--port", "0", "--no-cache"],
        "chat": ["--no-cache", "--prompt", "a", "--max-tokens", "1"],
        "convert": [str(checkpoint), "--out", str(out), "--force"],
        "bench": ["--threads", "1", "--runs", "1", "--tokens", "8", "--prompt", "64", "--ctx", "512"],
    }
    bad = []
    for limit in range(60, 401, 34):
        for verb, options in verbs.items():
            out.unlink(missing_ok=True)
            code, _, err = place.command(verb, *options, prefix=f"ulimit -c 0; ulimit -v {limit}000;", seconds=60)
            lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
            if code == 0 and verb != "serve":
                continue
            if code != 7 or len(lines) != 1 or out.exists():
                bad.append((verb, limit, code))
    return not bad, f"not one line and 7: {bad or 'none'}"


def n6(place: Place) -> Result:
    """A hub that lists nonsense, redirects to files and to another host, and a token that it must not get."""
    listings = {
        "deep": Fault("", content=b"[" * 200_000 + b"]" * 200_000),
        "endless": Fault("", location=f"/api/models/{REPO}/revision/main?blobs=true"),
        "file": Fault("", location="file:///etc/passwd"),
        "ftp": Fault("", location="ftp://127.0.0.1/x"),
        "length": Fault("", content=b"{}", length=1 << 60),
        "416": Fault("", status=416),
    }
    bad: dict[str, object] = {}
    with serving(Hub(files_of(write_checkpoint(place.folder / "checkpoint")))) as hub, serving(Hub(hub.files)) as other:
        for size in ("-1", "true"):
            listing = re.sub(r'"size": \d+', f'"size": {size}', json.dumps(hub.listing()))
            listings[f"size {size}"] = Fault("", content=listing.encode())
        for name, fault in listings.items():
            fault.times = 1000
            hub.faults = [fault]
            code, err, left = pulled(place, hub)
            if code not in (3, 4, 6) or err.count("error: ") != 1 or "Traceback" in err or left:
                bad[name] = (code, left)
        elsewhere = other.endpoint.replace("127.0.0.1", "localhost")
        hub.faults = [Fault(name, location=f"{elsewhere}/cdn/{name}", times=1000) for name in hub.files]
        pulled(place, hub, "export HF_TOKEN=hf_secret;")
        told = any("hf_secret" in token for token in other.tokens)
    return not bad and not told, f"not one line of error: {bad or 'none'}; token sent to another host: {told}"


def pulled(place: Place, hub: Hub, prefix: str = "") -> tuple[int, str, list[str]]:
    """(exit code, stderr, files it left) of a pull into a folder of its own."""
    folder = place.folder / "pulled"
    folder.mkdir(exist_ok=True)
    prefix += f"export HF_ENDPOINT={hub.endpoint};"
    code, _, err = place.command("pull", REPO, "--out", str(folder / "x.gguf"), prefix=prefix, seconds=120)
    return code, err, sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def n7(place: Place) -> Result:
    """A folder of someone where `pull` would work, a link to it, and a pull's own folder with a torn journal."""
    held, seen = True, []
    mine = place.folder / "mine"
    for name in ("photo", "result", "journal.json", "chatglm2-small/config.json"):
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text("mine")
    shutil.copytree(mine, place.folder / "folder.gguf.pull")
    (place.folder / "link.gguf.pull").symlink_to(mine)
    for name in ("folder", "link"):
        for force in ([], ["--force"]):
            out = str(place.folder / f"{name}.gguf")
            code = place.command("pull", REPO, "--out", out, *force, prefix="export HF_ENDPOINT=http://127.0.0.1:9;")[0]
            files = [path for path in (place.folder / f"{name}.gguf.pull").rglob("*") if path.is_file()]
            whole = len(files) == 4 and all(path.read_text() == "mine" for path in files)
            held = held and whole and code == 2
            seen.append(f"{name}{' --force' * bool(force)}: {'whole' if whole else 'FILES GONE'}, exit code {code}")
    with serving(Hub(files_of(write_wide(place.folder / "chatglm2-small")))) as hub:
        hub.faults = [Fault(shard(3), cut=1000, times=1000)]
        pulled(place, hub)
        journal = place.folder / "pulled" / "x.gguf.pull" / "journal.json"
        journal.write_bytes(journal.read_bytes()[:-200])
        before = sum(path.stat().st_size for path in journal.parent.rglob("*") if path.is_file())
        hub.faults = [Fault("", status=404, times=1000)]
        pulled(place, hub)
        after = sum(path.stat().st_size for path in journal.parent.rglob("*") if path.is_file())
        hub.faults = []
        code = pulled(place, hub)[0]
    seen.append(f"torn journal: {after} of {before} bytes kept without a hub, then exit code {code}")
    return held and after == before and code == 0, "; ".join(seen)


def no_numbers(model: Path) -> Path:
    """A copy whose weights, or the scales of their blocks, are NaN in the second half of the file."""
    copy = model.with_name("nan.gguf")
    data = model.read_bytes()
    copy.write_bytes(data[: len(data) // 2] + b"\xff" * (len(data) - len(data) // 2))
    return copy


def n10(place: Place) -> Result:
    """An engine in the server's process that fails for good: its weights give no numbers."""
    model = no_numbers(place.demo())
    with place.serving("--in-process", "--no-cache", "--model", str(model)) as target:
        status = target.ask(post(SHORT))[0]
        told, end = set(), time.monotonic() + 20
        while target.popen.poll() is None and time.monotonic() < end:
            told.add(target.ask(get("/health"), 5)[2].rpartition(b"\r\n")[2].decode())
        code = target.popen.poll()
        loading = any("loading" in one for one in told)
    return code == 4 and status == 500 and not loading, f"chat {status}, exit code {code}, said loading: {loading}"


def n15(place: Place) -> Result:
    """Open umask, core files allowed."""
    with place.serving(prefix="umask 0; ulimit -c unlimited 2>/dev/null;") as target:
        target.ask(post({**SHORT, "messages": [{"role": "user", "content": "再说一遍。" * 60}]}))
        processes = [psutil.Process(target.popen.pid), *psutil.Process(target.popen.pid).children()]
        cores = [one.rlimit(psutil.RLIMIT_CORE)[0] for one in processes]
    folders = [place.folder / name for name in ("cache", "data", "config")]
    modes = {str(p.relative_to(place.folder)): p.stat().st_mode for folder in folders for p in folder.rglob("*")}
    bad = {name: oct(stat.S_IMODE(mode)) for name, mode in modes.items() if mode & 0o077}
    return not bad and max(cores) <= 1, f"{len(modes)} files, open ones: {bad or 'none'}; core limits {cores}"


def n16(place: Place) -> Result:
    with place.serving("--api-key", "secret-key") as target:
        lines = [line for line in target.text().splitlines() if line.startswith("warning: ")]
    told = [line for line in lines if "--api-key-file" in line and "secret-key" not in line]
    return len(told) == 1, f"warnings: {len(told)}"


def n18(place: Place) -> Result:
    """A text from a pipe beside --prompt."""
    options = ("chat", "--no-cache", "--temperature", "0", "--max-tokens", "24", "--prompt", "你好")
    both, alone = place.command(*options, stdin="北京在哪里？"), place.command(*options)
    held = both[0] != 0 or both[1] != alone[1]
    return held, "refused" if both[0] else f"answers {'differ' if held else 'are equal: the pipe was dropped'}"


def n17(place: Place) -> Result:
    """More threads than a machine has."""
    with place.serving("--threads", "999", "--no-cache") as target:
        target.ask(post(SHORT))
        warned = "--threads" in target.text()
        threads = max(child.num_threads() for child in target.children())
    return warned and threads < 100, f"threads of the engine's process: {threads}, said: {warned}"


def n19(place: Place) -> Result:
    """Weights that are no numbers, in the engine's own process."""
    model = no_numbers(place.demo())
    with place.serving("--no-cache", "--model", str(model)) as target:
        status = target.ask(post(SHORT))[0]
        end, health = time.monotonic() + 20, ""
        while "failed" not in health and time.monotonic() < end:
            health = target.ask(get("/health"))[2].rpartition(b"\r\n")[2].decode()
            time.sleep(0.2)
        said = "put the model" in target.text()
    return status == 500 and "failed" in health and said, f"chat {status}, /health {health}, said what to do: {said}"


FORGED: dict[str, Callable[[bytes], bytes]] = {
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "blake2b": lambda data: hashlib.blake2b(data, digest_size=32).digest(),
    "nothing": lambda data: bytes(32),
}


def n20(place: Place) -> Result:
    """Cached states with other values and a digest that anyone can compute."""
    text = "再说一遍。" * 60
    seen = {}
    with place.serving("--ctx=2048") as target:
        first = target.chat(text)[2]
    for name, digest in {"": None, **FORGED}.items():
        files = list((place.folder / "cache").rglob("*.prefix"))
        for path in files if digest else []:
            content = path.read_bytes()[:-32]
            content = content[: len(content) // 2] + bytes(byte ^ 0x55 for byte in content[len(content) // 2 :])
            path.write_bytes(content + digest(content))
        with place.serving("--ctx=2048") as target:
            reply = target.chat(text)[2]
        seen[name or "as it was"] = int((re.findall(rb'"cached_tokens": ?(\d+)', reply) or [b"-1"])[0])
    held = seen.pop("as it was") > 100 and max(seen.values()) < 20 and bool(first)
    return held, f"cached tokens: {seen}"
