"""A repository of the Hugging Face hub to one GGUF file, shard by shard: fetch one, convert its tensors, delete it.

Every tensor's place in the result follows from config.json, tokenizer.model and the recipe, so tensors are written as
they come. A folder beside the output, OUT.pull, has the result under construction, the journal (`journal.py`) and the
fetched files. After any interruption the same call continues, at the same commit. The result has the same bytes as that
of `convert` from the same files.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from glm_edge.errors import UsageError

from ..blocks import write_blocks
from ..compare import compare_data, compare_head, relative_errors
from ..convert import HUB_ID, Report, checked_recipe, checked_threads, default_output, enough_memory, types_of
from ..layout import Layout, Placed, sealed
from ..quantize.recipe import Recipe
from ..recipes import DEFAULT
from ..source.checkpoint import misplaced
from ..source.files import raise_all
from ..source.importance import ImportanceMatrix, read_importance
from ..source.quantized import SCALE, dequantized
from ..source.shard import StoredTensor
from ..source.sources import file_digest, sources_text
from ..tensors import map_tensors
from ..write import OutputFile, amount, check_output, check_space, storage_errors
from .hub import RETRIES, Hub, is_allowed
from .journal import Done, Journal
from .plan import make_plan
from .workspace import begin, claim, no_link, remove

SAVE_EVERY = 64 << 20  # bytes of the result between two entries in the journal; each costs an fsync
SLACK = 4 << 20  # bytes for tokenizer.model, index and journal
Progress = Callable[[str, int, int], None]  # the current step, bytes fetched and written so far, bytes in all


def pull(
    repo: str,
    out: Path | None = None,
    *,
    type: str | Recipe = DEFAULT,
    revision: str = "main",
    imatrix: Path | None = None,
    force: bool = False,
    threads: int | None = None,
    endpoint: str | None = None,
    retries: Sequence[float] = RETRIES,
    say: Callable[[str], None] = lambda line: None,
    progress: Progress = lambda what, done, total: None,
) -> Report:
    """Fetch and convert the repository OWNER/NAME. `out`, `type` and `imatrix` are as in `convert`.

    Args:
        force: replace the output if it exists, and remove what another pull has in OUT.pull.
        say: gets a line at a time.

    Raises as `convert` does, and: StorageError if the hub or the network refuses, IntegrityError if a file is not what
    the hub lists, UsageError if OUT.pull belongs to another pull or was not made by one.
    """
    started = time.monotonic()
    recipe, threads = checked_recipe(type, imatrix), checked_threads(threads)
    importance = read_importance(imatrix) if imatrix is not None else None
    if not HUB_ID.fullmatch(repo):
        raise UsageError(f"{repo}: not the name of a repository; OWNER/NAME is expected, as THUDM/chatglm2-6b")
    out = default_output(repo.split("/")[1], recipe.name) if out is None else out
    check_output(out, (), force=force)
    folder = out.with_name(f"{out.name}.pull")
    hub = Hub(repo, endpoint, retries, _without_network(repo, recipe), say)
    with storage_errors(out, 0):
        claim(folder)
    with enough_memory(out, threads), OutputFile(out, 0, folder) as file, file.errors():
        check_output(out, (), force=force)  # again: the last holder of the lock may have made it
        claim(folder)  # again: the last holder of the lock may have removed it
        journal = begin(hub, folder, file, revision, recipe, force, say)
        work = _Pull(hub, folder, journal, recipe, importance, threads, file, progress)
        work.check_space(say)
        work.shards()
        layout, errors = work.finish()
        file.commit()
        remove(folder)
    seconds = time.monotonic() - started
    return Report(out, layout.size, recipe.name, types_of(layout), errors, len(layout.tensors), threads, seconds)


def _without_network(repo: str, recipe: Recipe) -> str:
    return (
        f"on a machine with a network, put config.json, tokenizer.model and the weights (model*.safetensors or"
        f" pytorch_model*.bin, with their index) of https://huggingface.co/{repo} into a folder, and run here:"
        f" glm-edge convert FOLDER --type {recipe.name}"
    )


class _Pull:
    """The pull in progress: its journal, its plan, and the shards that are on the disk."""

    def __init__(
        self,
        hub: Hub,
        folder: Path,
        journal: Journal,
        recipe: Recipe,
        importance: ImportanceMatrix | None,
        threads: int,
        file: OutputFile,
        progress: Progress,
    ) -> None:
        self._hub, self._folder, self._journal, self._file = hub, folder, journal, file
        self._threads, self._progress = threads, progress
        self._where = folder / hub.repo.split("/")[1]  # the model's name where config.json has none
        self._stored: dict[str, StoredTensor] = {}  # of the shards that are here
        self._bytes: dict[str, int] = {}  # of every shard and tensor: bytes that are done
        no_link(self._where)
        self._where.mkdir(exist_ok=True)
        where = f"{hub.url} at {journal.commit[:12]}"
        self._plan = make_plan(self._where, journal.files, where, recipe, importance, self._fetch)
        self._layout, self._schedule = self._plan.layout, self._plan.schedule
        self._keep_what_is_done()

    def _fetch(self, name: str) -> Path:
        """Fetch a file of the repository, unless it is there; returns its path."""
        listed, path = self._journal.files[name], self._where / name

        def progress(there: int) -> None:
            self._show(f"fetching {name}", name, there)

        self._hub.fetch(listed, self._journal.commit, path, progress)
        self._journal.hashes[name] = listed.sha256 or file_digest(path)
        return path

    def _show(self, what: str, name: str, there: int) -> None:
        if name in self._bytes:  # a shard or a tensor
            self._bytes[name] = there
            total = sum(self._schedule.sizes.values()) + sum(placed.size for placed in self._layout.tensors)
            self._progress(what, sum(self._bytes.values()), total)

    def _keep_what_is_done(self) -> None:
        """Remove from the journal what is not in the result: all of it if the plan has changed."""
        key = hashlib.sha256(self._layout.head).hexdigest()
        if self._journal.layout != key:
            self._journal.layout = key
            self._journal.tensors.clear()
            self._file.resize(0)
        with open(self._file.temporary, "rb") as result:
            for placed in self._layout.tensors:
                done = self._journal.tensors.get(placed.tensor.name)
                if done is not None:
                    result.seek(placed.offset)
                    if _digest(result.read, placed.size) != done.sha256:
                        del self._journal.tensors[placed.tensor.name]
                        for path in self._where.glob("*.part"):  # the disk has space for one shard
                            if is_allowed(path.name.removesuffix(".part")):
                                path.unlink()
        self._journal.save(self._folder)
        left = self._schedule.to_fetch(self._done())
        self._bytes = {name: 0 if name in left else size for name, size in self._schedule.sizes.items()}
        for placed in self._layout.tensors:
            self._bytes[placed.tensor.name] = placed.size if placed.tensor.name in self._journal.tensors else 0
        for name in self._schedule.sizes:  # a kill between the journal and the removal leaves it
            if name not in left:
                (self._where / name).unlink(missing_ok=True)
                (self._where / f"{name}.part").unlink(missing_ok=True)

    def _done(self) -> set[str]:
        """The source names of the tensors that are in the result."""
        names = {placed.tensor.name: placed.tensor.source.name for placed in self._layout.tensors}
        return {names[name] for name in self._journal.tensors}

    def check_space(self, say: Callable[[str], None]) -> None:
        """Say how much disk the rest takes. Raises StorageError if that is not free."""
        done = self._done()
        shards, peak = self._schedule.to_fetch(done), self._schedule.peak(done)
        self._file.size = self._layout.size + peak + SLACK
        there = sum(_allocated(path) for path in self._folder.rglob("*"))
        say(
            f"{self._hub.repo}: needs {amount(self._file.size)} of disk at {self._folder.parent}, of which"
            f" {amount(self._layout.size)} for the result and {amount(peak)} for a shard; {amount(there)} of it are"
            f" there; {len(shards)} of {len(self._schedule.sizes)} shards to fetch; interrupted, the same command"
            " continues"
        )
        check_space(self._file.temporary.parent, max(0, self._file.size - there))

    def shards(self) -> None:
        """Fetch, convert and delete the shards that are left."""
        there: set[str] = set()
        for name in self._schedule.to_fetch(self._done()):
            left = [shard for shard in self._schedule.to_fetch(self._done()) if shard not in there]
            self._hub.advice = (
                f"fetch {', '.join(left)} from {self._hub.url}/tree/{self._journal.commit}, put them into {self._where}"
                " and run the same command again"
            )
            self._open(name, self._fetch(name))
            there.add(name)
            self._convert(self._schedule.ready(there, self._done()))
            for shard in [shard for shard in there if not self._schedule.needed(shard, self._done())]:
                there.remove(shard)
                path = self._where / shard
                self._stored = {key: value for key, value in self._stored.items() if value.file.path != path}
                path.unlink()

    def _open(self, name: str, path: Path) -> None:
        plan, found = self._plan, self._plan.format.open(path)
        if plan.weight_map is not None:
            raise_all(self._where, misplaced(name, found, plan.weight_map, plan.format.index))
        self._stored |= found

    def _convert(self, names: list[str]) -> None:
        """Convert tensors whose parts are here, and note them in the journal."""
        wanted = self._opened(names)
        fresh: list[tuple[Placed, str]] = []
        for block, digest in write_blocks(self._file, wanted, self._where, self._threads):
            placed = block.placed
            self._show("converting", placed.tensor.name, block.stop * placed.row_bytes)
            if digest is not None:
                fresh.append((placed, digest))
            if sum(placed.size for placed, _ in fresh) >= SAVE_EVERY:
                self._note(fresh)
        self._note(fresh)

    def _opened(self, names: list[str]) -> list[Placed]:
        """These tensors with their place, now read from the shards. Raises InvalidFileError."""
        plan, bits = self._plan, self._plan.config.quantization_bit
        if plan.weight_map is None:
            parts = self._stored  # so that other tensors in it are found
            raise_all(self._where, [f"{name} is missing" for name in plan.sources if name not in parts])
        else:
            pairs = (part for name in names for part in (name, name + SCALE))
            parts = {part: self._stored[part] for part in pairs if part in self._stored}
        sources = {**plan.sources, **(dequantized(parts, bits, self._where) if bits else parts)}
        tensors = {tensor.name: tensor for tensor in map_tensors(plan.config, sources, self._where)}
        return [replace(p, tensor=tensors[p.tensor.name]) for p in plan.layout.tensors if p.tensor.source.name in names]

    def _note(self, fresh: list[tuple[Placed, str]]) -> None:
        """Send written tensors to the disk, read samples back, and put them into the journal."""
        self._file.sync()
        for placed, digest in fresh:
            self._journal.tensors[placed.tensor.name] = Done(digest, compare_data(self._file, placed))
        fresh.clear()
        self._journal.save(self._folder)

    def finish(self) -> tuple[Layout, dict[str, float]]:
        """Write the head with all hashes and read it back; returns the layout and the errors by kind."""
        done = self._journal.tensors
        listed = self._journal.files
        for name in self._plan.inputs:
            if name not in self._journal.hashes:  # a shard of which nothing was needed
                self._journal.hashes[name] = listed[name].sha256 or file_digest(self._fetch(name))
        sizes = {name: listed[name].size for name in self._plan.inputs}
        text = sources_text(sizes, self._journal.hashes)
        layout = sealed(self._layout, [done[placed.tensor.name].sha256 for placed in self._layout.tensors], text)
        self._file.seek(0)
        self._file.write(layout.head)
        self._file.finish()
        compare_head(self._file, layout)
        return layout, relative_errors((p.tensor.kind, done[p.tensor.name].squares) for p in layout.tensors)


def _digest(read: Callable[[int], bytes], size: int) -> str:
    """SHA-256 of the next `size` bytes, or of fewer at the end of the file."""
    running = hashlib.sha256()
    while size and (block := read(min(size, 1 << 20))):
        running.update(block)
        size -= len(block)
    return running.hexdigest()


def _allocated(path: Path) -> int:
    """Bytes that a file takes on the disk: parts of the result that are not written yet take none."""
    status = path.lstat()
    return getattr(status, "st_blocks", -(-status.st_size // 512)) * 512
