"""ik_llama.cpp's structures and functions for ctypes: those of its `include/llama.h` that are used here.

The functions have llama.cpp's names and take llama.cpp's arguments, so that Model and Context can call either. Its
structures are laid out otherwise than llama.cpp's and change without notice. So exactly one version is known, and
`check_layout` compares what the library writes with what is declared here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UnsupportedModelError
from .runtime import AbortCallback, ProgressCallback

_P, _S, _B, _F = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_bool, ctypes.c_float
_I, _U, _SIZE = ctypes.c_int32, ctypes.c_uint32, ctypes.c_size_t
_IDS = ctypes.POINTER(_I)
_AGAIN = "install ik-llama-cpp-python again"
_ROOM, _MARK = 4096, 0xA5  # bytes for a structure whose size is to be found, and what they hold before


def _all(kind: Any, *names: str) -> tuple[tuple[str, Any], ...]:
    return tuple((name, kind) for name in names)


class ModelParams(ctypes.Structure):
    """struct llama_model_params."""

    _fields_ = (
        ("devices", _S),
        *_all(_I, "n_gpu_layers", "mla", "split_mode", "main_gpu", "max_gpu", "ncmoe", "type_k", "type_v"),
        ("max_ctx_size", _U),
        *_all(_I, "n_seq_max", "n_ubatch", "amb", "fit_margin"),
        ("fit", _B),
        *_all(_I, "worst_graph_tokens", "type_k_first", "type_k_last", "type_v_first", "type_v_last"),
        *_all(_I, "n_k_first", "n_k_last", "n_v_first", "n_v_last"),
        *_all(_P, "tensor_split", "rpc_servers"),
        ("progress_callback", ProgressCallback),
        *_all(_P, "progress_callback_user_data", "kv_overrides", "tensor_buft_overrides"),
        *_all(_B, "vocab_only", "use_mmap", "use_mlock", "check_tensors", "repack_tensors", "use_thp"),
        *_all(_B, "validate_quants", "merge_qkv", "merge_up_gate_exps", "mtp", "dry_run", "flash_attn"),
    )


class ContextParams(ctypes.Structure):
    """struct llama_context_params."""

    _fields_ = (
        *_all(_U, "seed", "n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_threads", "n_threads_batch"),
        *_all(_I, "max_extra_alloc", "worst_case_tokens", "rope_scaling_type", "pooling_type", "attention_type"),
        *_all(_F, "rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor"),
        *_all(_F, "yarn_beta_fast", "yarn_beta_slow"),
        ("yarn_orig_ctx", _U),
        ("defrag_thold", _F),
        *_all(_P, "cb_eval", "cb_eval_user_data"),
        *_all(_I, "type_k", "type_v", "type_reduce", "type_k_first", "type_k_last", "type_v_first", "type_v_last"),
        *_all(_I, "n_k_first", "n_k_last", "n_v_first", "n_v_last"),
        *_all(_B, "logits_all", "embeddings", "offload_kqv", "flash_attn"),
        *_all(_I, "mla_attn", "attn_max_batch"),
        *_all(_B, "fused_moe_up_gate", "grouped_expert_routing", "fused_up_gate", "fused_mmad", "rope_cache"),
        ("graph_reuse", _B),
        ("min_experts", _I),
        ("thresh_experts", _F),
        *_all(_B, "only_active_experts", "k_cache_hadamard", "v_cache_hadamard", "split_mode_graph_scheduling"),
        *_all(_B, "scheduler_async", "mtp"),
        ("mtp_op_type", _I),
        ("abort_callback", AbortCallback),
        *_all(_P, "abort_callback_data", "offload_policy", "cuda_params"),
    )


class IkBatch(ctypes.Structure):
    """struct llama_batch."""

    _fields_ = (
        ("n_tokens", _I),
        ("token", _IDS),
        ("embd", _P),
        ("pos", _IDS),
        ("n_seq_id", _IDS),
        ("seq_id", ctypes.POINTER(_IDS)),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
        *_all(_I, "all_pos_0", "all_pos_1", "all_seq_id"),
    )


class CacheView(ctypes.Structure):
    """struct llama_kv_cache_view."""

    _fields_ = (
        *_all(_I, "n_cells", "n_seq_max", "token_count", "used_cells", "max_contiguous", "max_contiguous_idx"),
        ("cells", _IDS),  # the position of each cell; -1 is free
        ("cells_sequences", _IDS),
    )


# llama.cpp's name -> (ik_llama.cpp's, result, arguments)
_FUNCTIONS: dict[str, tuple[str, Any, tuple[Any, ...]]] = {
    "llama_backend_init": ("llama_backend_init", None, ()),
    "llama_log_set": ("llama_log_set", None, (_P, _P)),
    "llama_print_system_info": ("llama_print_system_info", _S, ()),
    "llama_model_default_params": ("llama_model_default_params", ModelParams, ()),
    "llama_context_default_params": ("llama_context_default_params", ContextParams, ()),
    "llama_model_load_from_file": ("llama_model_load_from_file", _P, (_S, ModelParams)),
    "llama_model_free": ("llama_free_model", None, (_P,)),
    "llama_model_n_params": ("llama_model_n_params", ctypes.c_uint64, (_P,)),
    "llama_model_get_vocab": ("llama_model_get_vocab", _P, (_P,)),
    "llama_vocab_n_tokens": ("llama_vocab_n_tokens", _I, (_P,)),
    "llama_vocab_eos": ("llama_vocab_eos", _I, (_P,)),
    "llama_vocab_get_text": ("llama_vocab_get_text", _S, (_P, _I)),
    "llama_tokenize": ("llama_vocab_tokenize", _I, (_P, _S, _I, _IDS, _I, _B, _B)),
    "llama_token_to_piece": ("llama_token_to_piece_vocab", _I, (_P, _I, _S, _I, _I, _B)),
    "llama_init_from_model": ("llama_init_from_model", _P, (_P, ContextParams)),
    "llama_free": ("llama_free", None, (_P,)),
    "llama_n_ctx": ("llama_n_ctx", _U, (_P,)),
    "llama_set_n_threads": ("llama_set_n_threads", None, (_P, _U, _U)),
    "llama_set_abort_callback": ("llama_set_abort_callback", None, (_P, AbortCallback, _P)),
    "llama_decode": ("llama_decode", _I, (_P, IkBatch)),
    "llama_get_logits_ith": ("llama_get_logits_ith", ctypes.POINTER(_F), (_P, _I)),
    "llama_memory_seq_rm": ("llama_kv_cache_seq_rm", _B, (_P, _I, _I, _I)),
    "llama_memory_seq_cp": ("llama_kv_cache_seq_cp", None, (_P, _I, _I, _I, _I)),
    # these take a number of flags more
    "state_size": ("llama_state_seq_get_size", _SIZE, (_P, _I, _U)),
    "state_get": ("llama_state_seq_get_data", _SIZE, (_P, _P, _SIZE, _I, _U)),
    "state_set": ("llama_state_seq_set_data", _SIZE, (_P, _P, _SIZE, _I, _U)),
    # llama.cpp has none of these
    "view_init": ("llama_kv_cache_view_init", CacheView, (_P, _I)),
    "view_update": ("llama_kv_cache_view_update", None, (_P, ctypes.POINTER(CacheView))),
    "view_free": ("llama_kv_cache_view_free", None, (ctypes.POINTER(CacheView),)),
    "defrag": ("llama_kv_cache_defrag", None, (_P,)),
    "update": ("llama_kv_cache_update", _I, (_P,)),
}


class IkApi:
    """The functions of ik_llama.cpp's library, as attributes.

    Raises UnsupportedModelError for a library without one of them, or with other structures.
    """

    llama_batch = IkBatch
    state_size: Callable[..., int]
    state_get: Callable[..., int]
    state_set: Callable[..., int]

    def __init__(self, path: Path) -> None:
        try:
            library = ctypes.CDLL(str(path))
            for name, (own, result, arguments) in _FUNCTIONS.items():
                setattr(self, name, _function(library, own, result, arguments))
        except (OSError, AttributeError) as error:
            raise UnsupportedModelError(f"{path}: cannot be used here: {error}; {_AGAIN}") from error
        check_layout(library, path)

    def llama_get_memory(self, context: Any) -> Any:
        """What the functions on the cache take: here it is the context."""
        return context

    def llama_state_seq_get_size(self, context: Any, sequence: int) -> int:
        return self.state_size(context, sequence, 0)

    def llama_state_seq_get_data(self, context: Any, data: Any, size: int, sequence: int) -> int:
        return self.state_get(context, data, size, sequence, 0)

    def llama_state_seq_set_data(self, context: Any, data: Any, size: int, sequence: int) -> int:
        return self.state_set(context, data, size, sequence, 0)


def _function(library: ctypes.CDLL, name: str, result: Any, arguments: tuple[Any, ...]) -> Any:
    function = library[name]  # an object of its own, so that declarations elsewhere do not change it
    function.restype, function.argtypes = result, arguments
    return function


def check_layout(library: ctypes.CDLL, path: Path) -> None:
    """Raise UnsupportedModelError unless the library's structures are as declared here: their sizes and some values.

    On x86-64 a function that returns a large structure writes it where its hidden first argument points.
    """
    known = {"n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "defrag_thold": -1.0, "type_k": 1, "graph_reuse": True}
    for name, kind, values in (
        (
            "llama_model_default_params",
            ModelParams,
            {"n_ubatch": 512, "type_v": 1, "use_mmap": True, "flash_attn": True},
        ),
        ("llama_context_default_params", ContextParams, known),
    ):
        room = (ctypes.c_uint8 * _ROOM)(*[_MARK] * _ROOM)
        _function(library, name, _P, (_P,))(room)
        written = max((i + 1 for i, byte in enumerate(room) if byte != _MARK), default=0)
        found = kind.from_buffer(room)
        # bytes of padding at the end may be left as they were
        fits = ctypes.sizeof(kind) - ctypes.alignment(kind) < written <= ctypes.sizeof(kind)
        if not fits or any(getattr(found, field) != value for field, value in values.items()):
            what = f"{path}: its structures are not those of the ik_llama.cpp that is known here"
            raise UnsupportedModelError(f"{what}; {_AGAIN}")
