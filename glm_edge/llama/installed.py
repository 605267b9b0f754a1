"""llama-cpp-python as it is installed. Where it does not work, importing this raises UnsupportedModelError."""

from ..errors import UnsupportedModelError

try:
    import llama_cpp as ll
except ModuleNotFoundError as error:
    if error.name != "llama_cpp":
        raise
    raise UnsupportedModelError("llama-cpp-python is not installed; pip install llama-cpp-python") from error
except (OSError, RuntimeError) as error:  # no library; one that the system refuses, which it raises as RuntimeError
    again = "pip install --force-reinstall --no-binary :all: llama-cpp-python, or a wheel of glm-edge runtime"
    raise UnsupportedModelError(f"llama-cpp-python does not work here: {error}; {again}") from error

__all__ = ["ll"]
