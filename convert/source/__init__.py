"""The formats a checkpoint comes in: config.json, shards, safetensors, int4 and int8, LoRA. Read strictly."""
