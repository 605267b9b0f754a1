"""The checkpoint's tokenizer.model, read strictly, and the vocabulary of a GGUF file made from it."""
