"""The Hugging Face hub: lists the files of a revision, and fetches and verifies each.

The client, huggingface-hub, handles addresses, mirrors (HF_ENDPOINT), tokens, proxies, redirects and HF_HUB_OFFLINE.
Its download function is not used: since version 2 it starts again with a file that a killed process had begun, and
leaves the begun part on the disk. Here a file is continued by range requests. Only names on an allow-list are asked
for, and no Python file is on it. Not here: the order, and what becomes of the files (`pull.py`).
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from glm_edge.errors import GlmEdgeError, IntegrityError, StorageError, UsageError
from glm_edge.system.direct_io import write_all

from ..source.checkpoint import FORMATS
from ..source.files import shown
from ..source.sources import file_digest

RETRIES = (1.0, 2.0, 5.0, 10.0, 20.0)  # seconds between attempts that bring no byte
_LISTED = (
    "config.json",
    "tokenizer.model",
    "tokenizer_config.json",
    *(n for f in FORMATS for n in (f.index, f.single)),
)
_TOO_LARGE = 1 << 50  # bytes
_TEMPORARY = (408, 416, 429, 500, 502, 503, 504)  # statuses for which another attempt may work
_TOO_MANY = (408, 429)  # statuses for which the client waits as long as the hub says


@dataclass(frozen=True)
class HubFile:
    """A file as the hub lists it. It has one hash: SHA-256 if it is in LFS, else git's blob id."""

    name: str
    size: int  # bytes
    sha256: str | None
    blob: str | None

    def matches(self, path: Path) -> bool:
        """Whether the file at `path` is this one. Raises StorageError, IntegrityError if it changes meanwhile."""
        if path.stat().st_size != self.size:
            return False
        if self.sha256 is not None:
            return file_digest(path) == self.sha256
        return file_digest(path, "sha1", b"blob %d\0" % self.size) == self.blob


@dataclass(frozen=True)
class Listing:
    """The files of a commit that a conversion may need."""

    commit: str  # 40 hexadecimal digits
    files: Mapping[str, HubFile]


def is_allowed(name: str) -> bool:
    """Whether a file of this name may be fetched."""
    return name in _LISTED or any(format.shard.fullmatch(name) for format in FORMATS)


class Hub:
    """A repository of the hub. Every error of the client becomes one of ours.

    Args:
        endpoint: the hub's address; None for the client's choice.
        retries: seconds between attempts.
        advice: what to do without a network, for messages.
        say: gets a line for every wait.
    """

    def __init__(
        self, repo: str, endpoint: str | None, retries: Sequence[float], advice: str, say: Callable[[str], None]
    ) -> None:
        try:
            from huggingface_hub import HfApi
        except ValueError as error:  # it reads the environment when it is imported
            raise UsageError(f"huggingface-hub: {error}; check HF_ENDPOINT and what else begins with HF_") from error
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries are not the user's concern
        self._api = HfApi(endpoint=endpoint)
        self._retries = retries
        self._say = say
        self.repo = repo
        self.advice = advice

    @property
    def url(self) -> str:
        return f"{self._api.endpoint}/{self.repo}"

    def listing(self, revision: str) -> Listing:
        """The files of a branch, tag or commit. Raises UsageError for a name that cannot be one, StorageError."""
        waits = iter(self._retries)
        while True:
            try:
                with self._errors(f"revision {revision}"):
                    return self._listing(revision)
            except _TemporaryError as error:
                self._wait(waits, error)

    def _listing(self, revision: str) -> Listing:
        try:
            info = self._api.model_info(self.repo, revision=revision, files_metadata=True, timeout=30)
        except (KeyError, TypeError, AttributeError, RecursionError) as error:  # JSON of another shape, or deep
            raise self._no_hub() from error
        files = {}
        for entry in info.siblings or ():
            if not isinstance(entry.rfilename, str):
                raise self._no_hub()
            if is_allowed(entry.rfilename):
                sha256, blob = entry.lfs.sha256 if entry.lfs else None, entry.blob_id
                # the blob's hash of a file in LFS is that of its pointer
                hashed = _is_hash(sha256, 64) if entry.lfs else _is_hash(blob, 40)
                if type(entry.size) is not int or not 0 <= entry.size < _TOO_LARGE or not hashed:
                    raise StorageError(f"{self.url}: does not tell size and hash of {entry.rfilename}; {_OTHER}")
                files[entry.rfilename] = HubFile(entry.rfilename, entry.size, sha256, blob)
        if not _is_hash(info.sha, 40):
            raise self._no_hub()
        return Listing(str(info.sha), files)

    def _wait(self, waits: Iterator[float], failed: StorageError) -> None:
        """Wait for the next attempt; raise `failed` if there is none."""
        if (seconds := next(waits, None)) is None:
            raise failed
        self._say(f"{self.url}: no answer, or only a part of one; trying again in {seconds:g} s")
        time.sleep(seconds)

    def _no_hub(self) -> StorageError:
        return StorageError(
            f"{self.url}: what answers is not the Hugging Face hub; log in to this network if it asks for it, or set"
            " HF_ENDPOINT to a mirror"
        )

    def fetch(self, file: HubFile, commit: str, path: Path, progress: Callable[[int], None]) -> None:
        """Fetch the file to `path`, unless it is there; a begun .part beside it is continued.

        `progress` is called with the number of bytes that are there. Raises IntegrityError if another file comes
        twice, StorageError if the hub, the network or the disk refuses.
        """
        if not is_allowed(file.name):
            raise UsageError(f"{self.url}: {shown(file.name)} is not a file of a checkpoint, and is not fetched")
        if path.exists():
            if file.matches(path):
                progress(file.size)
                return
            path.unlink()
            self.advice = f"the {file.name} that was there is another file; {self.advice}"
        part = path.with_name(f"{path.name}.part")
        for _ in range(2):  # the second time for a part that was damaged on the disk
            self._complete(file, commit, part, progress)
            if file.matches(part):
                os.replace(part, path)
                return
            size = part.stat().st_size
            part.unlink()
        what = f"its {size} bytes are not those" if size == file.size else f"it has {size} bytes instead of {file.size}"
        raise IntegrityError(
            f"{self.url}: {file.name} came twice and is not what the hub lists for {commit[:12]}: {what}; a proxy or"
            f" mirror changes it; {_OTHER}"
        )

    def _complete(self, file: HubFile, commit: str, part: Path, progress: Callable[[int], None]) -> None:
        """Append to `part` until it has all bytes of the file, or one too many."""
        waits = iter(self._retries)
        if part.is_symlink():
            raise UsageError(f"{part}: is a link, to which a pull does not append; remove it")
        part.touch()
        while (have := part.stat().st_size) < file.size:
            failed = StorageError(f"{self.url}: {file.name} ends after {have} of {file.size} bytes; {_LATER}")
            try:
                with self._errors(file.name):
                    self._append(file, commit, part, progress)
            except _TemporaryError as error:
                failed = error
            now = part.stat().st_size
            if now > have:
                waits = iter(self._retries)
            if now < file.size:
                self._wait(waits, failed)

    def _append(self, file: HubFile, commit: str, part: Path, progress: Callable[[int], None]) -> None:
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

        url = hf_hub_url(self.repo, file.name, revision=commit, endpoint=self._api.endpoint)
        with open(part, "ab", buffering=0) as out:
            have = out.tell()
            headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
            if have:
                headers["Range"] = f"bytes={have}-"
            with http_stream_backoff(
                "GET",
                url,
                headers=headers,
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
                retry_on_exceptions=(),
                retry_on_status_codes=_TOO_MANY,
            ) as response:
                hf_raise_for_status(response)
                if have and response.status_code != 206:  # the whole file
                    out.truncate(0)
                    have = 0
                for chunk in response.iter_bytes():  # as they come: with a size, an interruption would lose bytes
                    wanted = memoryview(chunk)[: file.size + 1 - have]
                    write_all(out.fileno(), wanted)
                    have += len(wanted)
                    progress(min(have, file.size))
                    if have > file.size:
                        return

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Turns the client's errors into ours: _TemporaryError if another attempt may help."""
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

        # httpx's with version 1 of the client, httpx2's from version 2 on
        transport = tuple(
            base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError" and issubclass(base, Exception)
        )
        try:
            yield
        except HFValidationError as error:
            raise UsageError(f"{self.repo!r} is not the name of a repository: OWNER/NAME is expected") from error
        except OfflineModeIsEnabled as error:
            raise StorageError(f"{self.repo}: HF_HUB_OFFLINE is set; {self.advice}") from error
        except HfHubHTTPError as error:
            raise self._refusal(error, error.response.status_code, what) from error
        except transport as error:
            reason = str(error) or type(error).__name__
            raise _TemporaryError(f"{self.url}: cannot be reached ({reason}); {self.advice}") from error
        except ValueError as error:  # not JSON
            raise self._no_hub() from error

    def _refusal(self, error: Exception, status: int, what: str) -> GlmEdgeError:
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        if isinstance(error, GatedRepoError):
            how = "accept its terms on that page, then log in with `hf auth login` or put a token into HF_TOKEN"
            return StorageError(f"{self.url}: only for those who were given access; {how}")
        if isinstance(error, RepositoryNotFoundError) or status == 401:
            how = "check its name; a private one needs `hf auth login` or a token in HF_TOKEN"
            return StorageError(f"{self.url}: no such repository, or not for you ({status}); {how}")
        if isinstance(error, RevisionNotFoundError):
            return StorageError(f"{self.url}: has no {what}; choose a branch, tag or commit of it with --revision")
        if status == 404:
            return StorageError(f"{self.url}: has no {what}; {_OTHER}")
        kind = _TemporaryError if status in _TEMPORARY else StorageError
        return kind(f"{self.url}: answers {status} for {what}; {_LATER}")


_OTHER = "try again, or set HF_ENDPOINT to another mirror"
_LATER = "run the same command later, which continues, or set HF_ENDPOINT to a mirror"


class _TemporaryError(StorageError):
    """A failure of the hub or the network for which another attempt may help."""


def _is_hash(value: object, digits: int) -> bool:
    """Whether a value of the hub's JSON, whatever it is, is a hash in hexadecimal."""
    return isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{digits}}}", value) is not None
