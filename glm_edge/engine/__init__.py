"""The engine: one thread owns the llama context and answers requests. Knows nothing of HTTP."""
