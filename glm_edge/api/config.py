"""How to serve: the one home of the server's defaults, which `glm-edge serve` shows as those of its options.

Imports nothing heavy, because asking for help loads it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .access.keys import Keys
from .http.limits import Limits


@dataclass(frozen=True)
class ServeConfig:
    """The options that `serve` is started with.

    Args:
        host: name or address to listen on; beyond loopback it needs keys.
        port: 0 takes a free one; the line that says "serving" names it.
        keys: API keys; without any, every client may call.
        hosts: names besides the loopback's that requests may be for.
        origins: pages that may call from elsewhere.
        proxies: addresses and networks of the proxies whose X-Forwarded-For and -Proto are believed.
        aliases: names of the model besides its own.
        grace: seconds that running answers have after the first signal.
        trim: leave out the oldest rounds of conversations that do not fit, instead of refusing them.
        share_prefixes: whether a key's request may use what was computed for another key.
        capacity: requests at once, those in the engine's queue included.
        per_key: answers at once that one key may have; None is half of the capacity where there are other keys.
        max_wait: longest wait in the queue, in seconds: OpenAI's clients give up after 600, the answer included.
        wait_for_model: let requests wait while the model is loaded, instead of refusing them.
        reload: whether SIGHUP reads the adapters' files again.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Keys = field(default_factory=Keys)
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    proxies: frozenset[str] = frozenset()
    aliases: frozenset[str] = frozenset()
    grace: float = 30
    trim: bool = False
    share_prefixes: bool = False
    capacity: int = 256
    per_key: int | None = None
    max_wait: float = 540
    wait_for_model: bool = False
    reload: bool = False
    limits: Limits = field(default_factory=Limits)
