"""Computed prefixes outside of the KV cache, in memory and on disk: `store.py`, and its files in `store_file.py`."""
