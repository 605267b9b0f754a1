"""The HTTP API: `serve` in serve.py runs a server, `create_app` in app.py is the WSGI app alone."""
