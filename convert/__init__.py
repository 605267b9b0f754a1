"""The converter: a ChatGLM2 checkpoint to one GGUF file. It knows Hugging Face and GGUF, and nothing of serving."""
