"""Computed prefixes outside of the KV cache, in memory and on disk."""
