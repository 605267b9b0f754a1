"""The contracts the server speaks: JSON to our types and back. Pure: no server, no clock, no engine.

In: `strict_json` reads bytes, `validation` holds the value against a pydantic model of `chat`, `completions`,
`response_request` or `chatglm`, which turn it into the engine's types. Out: the serializers of `answers` write in the
forms of `responses` and `response_objects`; `errors` writes errors. `openapi` makes the API's document of all that.
"""
