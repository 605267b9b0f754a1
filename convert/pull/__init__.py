"""A repository of the Hugging Face hub to one GGUF file, shard by shard."""
