"""GLM Edge: ChatGLM2-6B on machines without a GPU and without a network.

Importing this package loads neither llama_cpp nor flask; each verb of the command line imports what it needs.
"""

__version__ = "0.1.0"
