"""The engine in a child process, behind the same interface: if native code dies, only running answers are lost.

worker.py            Worker, the parent's side: an Engine that restarts its child
process.py           one child as the parent sees it: started, watched, killed, explained
child.py             the child's side
calls.py             calls that have not ended, and whose turn it is
messages.py          what the two say to each other
load_progress.py     how far a load is, and how long it still takes
crash_quarantine.py  prompts that the engine does not survive

The caller says which engine runs in the child; nothing here imports one.
"""

from .worker import Worker as Worker
