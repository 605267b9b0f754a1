"""The conversation in a terminal: its messages, its commands, its input line and how answers look."""
