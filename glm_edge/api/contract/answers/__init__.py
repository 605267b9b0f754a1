"""Answers on their way out: serializers, the events of streams, and how calls of tools are read."""
