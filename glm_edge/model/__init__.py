"""The GGUF file: its reader and checks, its keys, tensors and types. The converter writes what this package reads."""
