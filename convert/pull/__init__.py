"""From the Hugging Face hub to GGUF, shard by shard."""
