"""Builds one llama-cpp-python wheel for every processor of an architecture: `build`, used by `glm-edge runtime`."""
