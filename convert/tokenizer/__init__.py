"""The checkpoint's tokenizer.model: read strictly, and turned into the vocabulary of a GGUF file."""
