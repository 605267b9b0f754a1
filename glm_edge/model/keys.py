"""The metadata keys of a GGUF file of ChatGLM2: the converter writes them, the engine and `glm-edge verify` read them.

General, `chatglm` and tokenizer keys are llama.cpp's (`src/llama-arch.cpp`, and docs/gguf.md of ggml). The keys under
"glm_edge." are ours. Not here: which values are allowed (`checks.py`) and how they are made (`convert/metadata.py`).
"""

from __future__ import annotations

ARCHITECTURE = "chatglm"  # llama.cpp's name for ChatGLM2, and the start of its keys

GENERAL_ARCHITECTURE = "general.architecture"
GENERAL_NAME = "general.name"  # what clients call the model
FILE_TYPE = "general.file_type"  # enum llama_ftype
QUANTIZATION_VERSION = "general.quantization_version"
ALIGNMENT = "general.alignment"  # bytes; our files leave it out, so it is 32

CONTEXT_LENGTH = f"{ARCHITECTURE}.context_length"  # tokens
EMBEDDING_LENGTH = f"{ARCHITECTURE}.embedding_length"
FEED_FORWARD_LENGTH = f"{ARCHITECTURE}.feed_forward_length"
BLOCK_COUNT = f"{ARCHITECTURE}.block_count"  # layers
VOCAB_SIZE = f"{ARCHITECTURE}.vocab_size"
HEAD_COUNT = f"{ARCHITECTURE}.attention.head_count"  # heads of queries
HEAD_COUNT_KV = f"{ARCHITECTURE}.attention.head_count_kv"  # heads of keys and values
KEY_LENGTH = f"{ARCHITECTURE}.attention.key_length"
VALUE_LENGTH = f"{ARCHITECTURE}.attention.value_length"
NORM_EPSILON = f"{ARCHITECTURE}.attention.layer_norm_rms_epsilon"
ROPE_DIMENSIONS = f"{ARCHITECTURE}.rope.dimension_count"
ROPE_BASE = f"{ARCHITECTURE}.rope.freq_base"
ROPE_SCALING = f"{ARCHITECTURE}.rope.scaling.type"
ROPE_SCALING_FACTOR = f"{ARCHITECTURE}.rope.scaling.factor"

TOKENIZER_MODEL = "tokenizer.ggml.model"
TOKENIZER_PRE = "tokenizer.ggml.pre"
TOKENS = "tokenizer.ggml.tokens"
SCORES = "tokenizer.ggml.scores"
TOKEN_TYPES = "tokenizer.ggml.token_type"
BOS = "tokenizer.ggml.bos_token_id"
EOS = "tokenizer.ggml.eos_token_id"
UNKNOWN = "tokenizer.ggml.unknown_token_id"
PADDING = "tokenizer.ggml.padding_token_id"
ADD_BOS = "tokenizer.ggml.add_bos_token"
ADD_EOS = "tokenizer.ggml.add_eos_token"
ADD_SPACE_PREFIX = "tokenizer.ggml.add_space_prefix"
CHAT_TEMPLATE = "tokenizer.chat_template"

GENERAL_TYPE = "general.type"  # "adapter" for an adapter; models leave it out
ADAPTER_TYPE = "adapter.type"  # "prefix" for one of P-Tuning v2
ADAPTER_TOKENS = "glm_edge.adapter.tokens"  # cells in front of every sequence

VERSION = "glm_edge.version"  # of the GLM Edge that converted
RECIPE = "glm_edge.recipe"  # the --type of the conversion
PREFIX_IDS = "glm_edge.prefix_ids"  # i32 array: [gMASK] and sop, which start every prompt
IMATRIX = "glm_edge.imatrix"  # SHA-256 of the importance matrix that the conversion used, if it used one
GPTQ = "glm_edge.gptq"  # tokens of the error compensation's text, if there was one
GOLDEN = "glm_edge.golden"  # JSON: [[text, [token id, …]], …]
SOURCES = "glm_edge.sources"  # JSON: [[name, bytes, SHA-256], …] of the files the model was made from
# SHA-256 in hexadecimal, joined: of the head with zeros in place of this value, then of each tensor's data without
# its padding, in the order of the file.
HASHES = "glm_edge.sha256"
HASH_DIGITS = 64
