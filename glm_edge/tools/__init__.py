"""Tools for a model file besides answering: verify it, measure it, compare it."""
