"""Turns a ChatGLM2 checkpoint into one GGUF file. Knows Hugging Face and GGUF, nothing of serving."""
