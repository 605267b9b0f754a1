"""The HTTP API. `create_app(engine)` in app.py is the only thing the outside needs."""
