"""The Flask app: routes, hooks, and the one place where errors become responses. The only file that imports Flask.

Who may call is decided in `access/policy.py`, what a body means in `contract/`; `stream.py` follows the answers. Runs
under any threaded WSGI server; deadlines, and limits on headers, are the server's (`http/`).
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from .. import __version__
from ..errors import OverloadedError, RateLimitError, RequestError
from ..types import Engine
from . import metrics
from .access.policy import OPEN_PATHS, PAGE_FILES, AccessPolicy
from .admission import Admission
from .contract import openapi, strict_json
from .contract.answers.chat import ChatSerializer
from .contract.answers.figures import server_timing
from .contract.answers.response import ResponseSerializer
from .contract.answers.serializer import ResponseHead, Serializer
from .contract.answers.text import TextSerializer
from .contract.chat import parse_chat
from .contract.chatglm import chatglm_response, parse_chatglm
from .contract.completions import parse_completion, parse_tokenize, tokenized_json
from .contract.errors import error_response
from .contract.fields import CompletionCall
from .contract.response_request import parse_response
from .contract.served_model import adapter_named, fingerprint, model_list, model_object
from .http.channel import HOLD_BACK
from .log import what_failed
from .model_queue import ModelQueue
from .page import page
from .stream import FIRST_EVENT_S, ClientGoneError, ResponseStream, check_wanted
from .submission import Caller, Submission

_log = logging.getLogger("glm_edge.http")
_EVENTS = "text/event-stream; charset=utf-8"
_STREAM_HEADERS = {"Content-Type": _EVENTS, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def create_app(
    engine: Engine | Admission,
    *,
    policy: AccessPolicy | None = None,
    aliases: Collection[str] = (),
    max_body: int = strict_json.MAX_BODY,
    trim: bool = False,
) -> Flask:
    """A WSGI app that answers with `engine`, or with the engine that an Admission has at the time.

    Args:
        policy: who may call; by default everyone on this machine.
        aliases: names that clients may call the model by, besides its own.
        max_body: bytes of a request's body.
        trim: leave out the oldest rounds of conversations that do not fit, instead of refusing them.
    """
    app = Flask("glm_edge.api", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = max_body
    app.url_map.merge_slashes = False  # it would redirect, and clients drop a POST's body then
    admission = engine if isinstance(engine, Admission) else Admission(engine)
    api = _Api(admission, policy or AccessPolicy(), aliases, trim)
    app.before_request(api.before)
    app.after_request(api.after)
    app.register_error_handler(Exception, api.on_error)
    for path, view, method in (
        ("/v1/chat/completions", api.chat, "POST"),
        ("/v1/completions", api.complete_text, "POST"),
        ("/v1/responses", api.respond, "POST"),
        ("/v1/tokenize", api.tokenize, "POST"),
        ("/", api.chatglm, "POST"),
        ("/", api.page, "GET"),
        ("/page/<path:name>", api.page, "GET"),
        ("/v1/models", api.models, "GET"),
        ("/v1/models/<path:name>", api.model, "GET"),
        ("/openapi.json", api.openapi, "GET"),
        ("/metrics", api.metrics, "GET"),
        ("/health", api.health, "GET"),
        ("/livez", api.livez, "GET"),
    ):
        app.add_url_rule(path, view_func=view, methods=[method], provide_automatic_options=False)
    return app


class _Api:
    """The routes and hooks of one app.

    Args: see create_app.
    """

    def __init__(self, admission: Admission, policy: AccessPolicy, aliases: Collection[str], trim: bool) -> None:
        self._admission = admission
        self._policy = policy
        self._aliases = aliases
        self._trim = trim
        self._model_queue = ModelQueue(admission)
        self._metrics = metrics.Metrics()
        self._page = page.load()
        self._created = int(time.time())  # the time of the model's making, for clients

    # Hooks

    def before(self) -> Response | None:
        g.request_id = f"req_{uuid.uuid4().hex}"
        g.start = time.monotonic()
        g.submission = None
        g.client_gone = request.environ.get("waitress.client_disconnected", lambda: False)
        origin = request.headers.get("Origin")
        if request.method == "OPTIONS" and origin and "Access-Control-Request-Method" in request.headers:
            self._policy.check_host(request.environ.get("HTTP_HOST"))
            wanted = request.headers.get("Access-Control-Request-Headers")
            return Response(status=200, headers=self._policy.preflight(origin, wanted))
        path = _path()
        g.key = self._policy.check(request.method, path, request.environ, request.scheme)
        if path.startswith("//"):
            raise NotFound
        return None

    def after(self, response: Response) -> Response:
        response.headers["x-request-id"] = g.request_id
        response.headers["X-Content-Type-Options"] = "nosniff"
        origin = request.headers.get("Origin")
        if self._policy.origins:
            response.headers.add("Vary", "Origin")
        if origin and self._policy.allows(origin):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "x-request-id, Retry-After, Server-Timing"
        response.call_on_close(_log_line(response.status_code, self._metrics))
        return response

    def on_error(self, error: Exception) -> Response:
        if isinstance(error, ClientGoneError):
            return Response(status=499)  # for the log; the client has left
        allowed = sorted(error.valid_methods or ()) if isinstance(error, MethodNotAllowed) else []
        if isinstance(error, HTTPException):
            error = _of_http(error)
        failed = error_response(error, g.request_id)
        if isinstance(error, OverloadedError | RateLimitError) and (hold_back := request.environ.get(HOLD_BACK)):
            hold_back(self._admission.refusals.delay())
        if failed.status == 500:
            _log.error("%s %s", g.request_id, what_failed(error))
        headers = (("Allow", ", ".join(allowed)),) if allowed else ()
        return _json(failed.status, failed.body, failed.headers + headers)

    # Routes

    def chat(self) -> Response:
        return self._complete(parse_chat(_body(), trim=self._trim), "chatcmpl-", ChatSerializer)

    def complete_text(self) -> Response:
        return self._complete(parse_completion(_body()), "cmpl-", TextSerializer)

    def respond(self) -> Response:
        """OpenAI's newer contract, without stored state."""
        call, settings = parse_response(_body(), trim=self._trim)
        return self._complete(call, "resp_", lambda head: ResponseSerializer(head, settings))

    def chatglm(self) -> Response:
        """The contract of ChatGLM2's own demo server."""
        call = parse_chatglm(_body())
        with ExitStack() as stack:
            (submission := self._submission(stack)).wait(call.request)
            text = (stream := submission.submit(replace(call.request, trim=self._trim))).whole()[0].text
            body = chatglm_response(call, text, time.time(), stream.total.trimmed_rounds)
            return _json(200, body, _timing(stream))

    def tokenize(self) -> Response:
        engine = self._admission.engine
        call = parse_tokenize(_body())
        adapter_named(call.model, engine.info, self._aliases)
        with ExitStack() as stack:
            stack.callback(self._admission.acquire(g.key, others=self._policy.keys.several).release)
            ids = engine.tokenize(call.text, partial(check_wanted, self._admission, g.client_gone))
        return Response(tokenized_json(ids), content_type="application/json")

    def _complete(self, call: CompletionCall, prefix: str, write: Callable[[ResponseHead], Serializer]) -> Response:
        """The answers to a checked request, at once or as a stream."""
        with ExitStack() as stack:
            submission = self._submission(stack)

            def start() -> tuple[ResponseStream, Serializer]:
                engine = self._admission.engine
                adapter = adapter_named(call.model, engine.info, self._aliases)
                name, mark = adapter or engine.info.id, fingerprint(engine.info, __version__)
                head = ResponseHead.of(call, prefix + uuid.uuid4().hex, int(time.time()), name, mark)
                return submission.submit(replace(call.request, adapter=adapter)), write(head)

            if not submission.wait(call.request, FIRST_EVENT_S if call.stream else math.inf):
                events = submission.late_events(start)
            else:
                stream, serializer = start()
                if not call.stream:
                    return _json(200, serializer.completion(stream.whole()), _timing(stream))
                stream.begin()
                events = stream.events(serializer)
            response = Response(events, headers=_STREAM_HEADERS)
            response.call_on_close(stack.pop_all().close)
            return response

    def _submission(self, stack: ExitStack) -> Submission:
        """The way of this request into the engine; it ends when `stack` is closed."""
        scope, several = self._policy.prefix_scope(g.key), self._policy.keys.several
        caller = Caller(g.key, several, scope, g.request_id, g.client_gone)
        g.submission = made = Submission(self._admission, self._model_queue, caller, self._metrics.begin)
        stack.callback(made.close)
        return made

    def page(self, name: str = page.PAGE) -> Response:
        if (file := self._page.get(name)) is None:
            raise NotFound
        response = Response(*file.sent(packed=request.accept_encodings.quality("gzip") > 0))
        response.make_conditional(request)  # 304 for clients that have it
        return response

    def models(self) -> Response:
        return _json(200, model_list(self._admission.engine.info, self._created))

    def model(self, name: str) -> Response:
        info = self._admission.engine.info
        return _json(200, model_object(info, self._created, adapter_named(name, info, self._aliases)))

    def openapi(self) -> Response:
        return _json(200, openapi.document(__version__))

    def metrics(self) -> Response:
        return Response(self._metrics.text(), content_type=metrics.CONTENT_TYPE)

    def health(self) -> Response:
        """Whether the engine works. A chat may be refused all the same while all capacity is taken."""
        return _json(200 if (state := self._admission.state) == "ok" else 503, {"status": state})

    def livez(self) -> Response:
        return _json(200, {"status": "ok"})  # whatever the model does


def _path() -> str:
    """The path as it was asked for; werkzeug's own has one slash at its beginning, however many there were."""
    raw: str = request.environ["PATH_INFO"]
    return "/" * (len(raw) - len(raw.lstrip("/")) - 1) + request.path


def _body() -> Any:
    """The request's JSON, strictly; headers are checked before a byte of it is read."""
    if request.content_encoding and request.content_encoding.lower() != "identity":
        raise RequestError("compressed bodies are not read; send plain JSON", code="unsupported_content_type")
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    if request.mimetype != "application/json" or charset not in ("utf-8", "utf8"):
        raise RequestError(
            "the body must be JSON in UTF-8, with Content-Type: application/json", code="unsupported_content_type"
        )
    return strict_json.loads(request.get_data(cache=False))


def _json(status: int, body: Mapping[str, Any], headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(strict_json.dumps(body), status, list(headers), content_type="application/json")


def _timing(stream: ResponseStream) -> tuple[tuple[str, str], ...]:
    return (("Server-Timing", server_timing(stream.total)),)


def _of_http(error: HTTPException) -> RequestError:
    """An error of routing or of reading the body, as one of our tree."""
    if isinstance(error, MethodNotAllowed):
        return RequestError(f"{request.method} is not possible here", code="method_not_allowed")
    if isinstance(error, RequestEntityTooLarge):
        message = f"the body is larger than the {request.max_content_length} bytes that are read"
        return RequestError(message, code="request_too_large")
    if error.code == 400:
        return RequestError("the request is not well formed")
    return RequestError("there is nothing at this path; the API begins at /v1/chat/completions", code="unknown_url")


def _log_line(status: int, figures: metrics.Metrics) -> Callable[[], None]:
    """Log and count a request once its last byte is on the way: no query string, no header, nothing of the body."""
    start, request_id, submission = g.start, g.request_id, g.submission
    route = "other" if request.url_rule is None else request.url_rule.rule
    what = (request.remote_addr, request.method, _path()[:200], status)

    def log() -> None:
        figures.end(route, *((status, None) if submission is None else (submission.status(status), submission.stream)))
        if submission is not None and (error := submission.error) and error_response(error, request_id).status == 500:
            _log.error("%s %s", request_id, what_failed(error))
        # health checks come every few seconds and a page has many files: they would be all that a log holds
        quiet = status in (200, 304, 503) and (what[2] in OPEN_PATHS or what[2].startswith(PAGE_FILES))
        values = (*what, time.monotonic() - start, request_id, "" if submission is None else submission.summary())
        _log.log(logging.DEBUG if quiet else logging.INFO, "%s %s %s %d %.3fs %s%s", *values)

    return log
