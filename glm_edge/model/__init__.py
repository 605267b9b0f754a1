"""The GGUF file: its reader and checks; its keys, tensors and types, which the converter uses too."""
