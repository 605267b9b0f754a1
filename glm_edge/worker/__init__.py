"""The engine in a child process, behind the same interface: native code that dies or hangs costs the running answers.

`Worker` is the parent's side. Which engine runs in the child is up to whoever calls; nothing here imports one.
"""

from .worker import Worker as Worker
