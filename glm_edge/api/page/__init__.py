"""The chat page and its Content-Security-Policy."""
