"""The HTTP server under the app: waitress with deadlines, strict parsing and limits."""
