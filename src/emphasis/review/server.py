"""The page of a review: a server that is reachable from this computer only and needs no network."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from emphasis.errors import EmphasisError
from emphasis.json_files import JSONFileError
from emphasis.loopback import HOST_NAMES, is_local_host, is_same_origin
from emphasis.review.decisions import DECISIONS, DecisionLog
from emphasis.review.examples import Examples, ReviewError
from emphasis.review.session import Filter, ReviewSession
from emphasis.review.views import ImageViews, Views, views_of
from emphasis.texts import encodable

_STATIC = {"/": ("review.html", "text/html"), "/review.js": ("review.js", "text/javascript"),
           "/review.css": ("review.css", "text/css")}  # fmt: skip
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_MAX_BODY = 200_000  # bytes
_MAX_AT_ONCE = 500  # examples in one request
_GRID = 60  # examples on a page of the grid
_PICTURE, _THUMBNAIL = 1024, 160  # pixels per side
_TOP_CLASSES = 5
_PAIRS = 200


class LocalOnly:
    """Refuses requests with another host name than this computer's, and requests sent by pages of other origins."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        request = Request(scope)
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        site = request.headers.get("sec-fetch-site", "none")
        is_write = request.method not in ("GET", "HEAD")
        refused = (
            not is_local_host(host)
            or (origin is not None and not is_same_origin(origin, host))
            or (is_write and (origin is None or request.headers.get("content-type") != "application/json"))
            or (request.url.path != "/" and site not in ("none", "same-origin"))
        )
        if refused:
            response = Response("This page is available on this computer only.", 403, headers=_HEADERS)
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class ReviewPage:
    """Answers to the requests of the page."""

    def __init__(self, session: ReviewSession, reviewer: str) -> None:
        self._session, self._reviewer = session, reviewer
        self._examples = session.examples

    def app(self) -> ASGIApp:
        """Return the application."""
        routes = [Route(path, _static(*content)) for path, content in _STATIC.items()]
        routes += [
            Route("/api/session", self._answer(self._about)),
            Route("/api/summary", self._answer(self._summary)),
            Route("/api/next", self._answer(self._next)),
            Route("/api/example/{index:int}", self._answer(self._one)),
            Route("/api/list", self._answer(self._list)),
            Route("/api/decide", self._answer(self._decide), methods=["POST"]),
            Route("/api/skip", self._answer(self._skip), methods=["POST"]),
            Route("/picture/{index:int}", self._picture),
        ]
        return LocalOnly(Starlette(routes=routes))

    def _answer(self, make: Callable[[dict[str, Any]], Any]) -> Callable[[Request], Any]:
        """Return an endpoint that answers a query or a body with JSON; expected errors are returned as a message."""

        async def endpoint(request: Request) -> Response:
            from starlette.concurrency import run_in_threadpool

            values: dict[str, Any] = {**request.query_params, **request.path_params}
            try:
                if request.method == "POST":
                    values |= await _body(request)
                return JSONResponse(await run_in_threadpool(make, values), headers=_HEADERS)
            except EmphasisError as error:
                return JSONResponse({"error": encodable(str(error))}, 400, headers=_HEADERS)

        return endpoint

    def _about(self, values: dict[str, Any]) -> dict[str, Any]:
        examples = self._examples
        counts: dict[tuple[int, int], int] = {}
        for given, suggested in zip(
            examples.labels[examples.suspect].tolist(), examples.suggested[examples.suspect].tolist(), strict=True
        ):
            counts[given, suggested] = counts.get((given, suggested), 0) + 1
        pairs = sorted(counts.items(), key=lambda item: -item[1])[:_PAIRS]
        reviewer = _name(values, self._reviewer)
        return {
            "title": encodable(examples.title),
            "classes": [encodable(name) for name in examples.class_names],
            "pairs": [[given, suggested, count] for (given, suggested), count in pairs],
            "scores": [float(examples.score.min()), float(examples.score.max())],
            "reviewer": self._reviewer,
            "latest": self._session.latest_of(reviewer, 100),
            "summary": self._session.summary(),
        }

    def _summary(self, values: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        self._session.refresh()
        return {"summary": self._session.summary()}

    def _next(self, values: dict[str, Any]) -> dict[str, Any]:
        self._session.refresh()
        reviewer, chosen = _name(values, self._reviewer), _filter(values)
        index = self._session.next_example(reviewer, chosen)
        return {"example": None if index is None else self._example(index), "summary": self._session.summary()}

    def _one(self, values: dict[str, Any]) -> dict[str, Any]:
        self._session.refresh()
        return {"example": self._example(self._index(values["index"])), "summary": self._session.summary()}

    def _decide(self, values: dict[str, Any]) -> dict[str, Any]:
        indices = values.get("examples")
        if not isinstance(indices, list) or not 0 < len(indices) <= _MAX_AT_ONCE:
            raise ReviewError(f"give 1 to {_MAX_AT_ONCE} examples at a time")
        action, comment, label = values.get("action"), values.get("comment", ""), values.get("label", -1)
        if action not in ("keep", "suggestion", "other", "unsure", "withdraw"):
            raise ReviewError(f"the action {action!r} is unknown")
        if not isinstance(comment, str) or len(comment) > 2000 or type(label) is not int:
            raise ReviewError("a comment is a text of at most 2,000 characters, and a label a number")
        _filter(values)  # checked before saving, so that nothing is saved if there is an error
        self._session.refresh()
        self._session.decide(
            _name(values, self._reviewer),
            [self._index(index) for index in indices],
            action,
            label,
            comment=comment,
            settles=values.get("settles") is True,
        )
        return self._next(values) if values.get("then_next", True) else {"summary": self._session.summary()}

    def _skip(self, values: dict[str, Any]) -> dict[str, Any]:
        self._session.skip(_name(values, self._reviewer), self._index(values.get("example")))
        return self._next(values)

    def _list(self, values: dict[str, Any]) -> dict[str, Any]:
        self._session.refresh()
        matching = self._session.matching(_name(values, self._reviewer), _filter(values))
        page = max(0, _integer(values, "page", 0))
        shown = matching[page * _GRID : (page + 1) * _GRID].tolist()
        return {
            "total": len(matching),
            "page": page,
            "pages": -(-len(matching) // _GRID),
            "examples": [self._brief(index) for index in shown],
        }

    def _index(self, value: Any) -> int:
        if type(value) is not int or not 0 <= value < len(self._examples):
            raise ReviewError(f"there is no example {value!r}")
        return value

    def _brief(self, index: int) -> dict[str, Any]:
        """Return the content of a tile."""
        examples = self._examples
        return {
            "index": index,
            "key": encodable(examples.keys[index]),
            "given": int(examples.labels[index]),
            "suggested": int(examples.suggested[index]),
            "score": round(float(examples.score[index]), 2),
            "text": encodable(self._session.views.brief(index)),
            "decided": [vote.action for vote in self._session.votes(index)],
        }

    def _example(self, index: int) -> dict[str, Any]:
        """Return the content of the page of an example."""
        examples = self._examples
        given, suggested = int(examples.labels[index]), int(examples.suggested[index])
        nearest = {
            str(label): [self._brief(near) for near in self._session.neighbors.nearest(index, label)]
            for label in dict.fromkeys((given, suggested))
        }
        likely = []
        if examples.top_classes is not None and examples.top_probabilities is not None:
            likely = [
                [int(label), round(float(p), 4)]
                for label, p in zip(examples.top_classes[index], examples.top_probabilities[index], strict=True)
            ]
        return {
            **self._brief(index),
            "content": self._session.views.content(index),
            "source": encodable(examples.sources[index]) if examples.sources else "",
            "row": int(examples.rows[index]),
            "likely": [pair for number, pair in enumerate(likely) if number < _TOP_CLASSES or pair[0] == given],
            "nearest": nearest,
            "votes": [
                {
                    "reviewer": encodable(vote.reviewer),
                    "action": vote.action,
                    "after": encodable(vote.after),
                    "comment": encodable(vote.comment),
                }
                for vote in self._session.votes(index)
            ],
        }

    def _picture(self, request: Request) -> Response:
        views = self._session.views
        size = _THUMBNAIL if "small" in request.query_params else _PICTURE
        try:
            index = self._index(request.path_params["index"])
            if not isinstance(views, ImageViews):
                raise ReviewError("the examples are not images")
            headers = {**_HEADERS, "cache-control": "private, max-age=3600"}
            return Response(views.picture(index, size), media_type="image/png", headers=headers)
        except EmphasisError as error:
            return Response(encodable(str(error)), 404, headers=_HEADERS)


def _static(name: str, kind: str) -> Callable[[Request], Response]:
    content = (files("emphasis.review") / "static" / name).read_bytes()
    if name == "review.css":
        content = (files("emphasis.diagnostics.plots") / "templates" / "page.css").read_bytes() + content
    return lambda _: Response(content, media_type=kind, headers=_HEADERS)


async def _body(request: Request) -> dict[str, Any]:
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > _MAX_BODY:
            raise ReviewError(f"the request has more than {_MAX_BODY:,} bytes")
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise JSONFileError("the request is not JSON") from error
    if not isinstance(values, dict):
        raise JSONFileError("the request is not a JSON object")
    return values


def _name(values: dict[str, Any], default: str) -> str:
    name = values.get("reviewer") or default
    if not isinstance(name, str) or len(name) > 100:
        raise ReviewError("a reviewer's name is a text of at most 100 characters")
    return name


def _integer(values: dict[str, Any], name: str, default: int) -> int:
    try:
        return int(values.get(name, default))
    except (TypeError, ValueError):
        raise ReviewError(f"{name} is not a whole number") from None


def _number(values: dict[str, Any], name: str, default: float) -> float:
    try:
        return float(values.get(name) or default)
    except (TypeError, ValueError):
        raise ReviewError(f"{name} is not a number") from None


def _filter(values: dict[str, Any]) -> Filter:
    status = values.get("status", "open")
    if status not in ("open", "reviewed", "disputed", "all"):
        raise ReviewError(f"the status {status!r} is unknown")
    return Filter(
        status=status,
        given=_integer(values, "given", -1),
        suggested=_integer(values, "suggested", -1),
        least=_number(values, "least", float("-inf")),
        most=_number(values, "most", float("inf")),
        query=str(values.get("query", ""))[:200],
        suspects=values.get("suspects") in (True, "true"),
    )


def serve(
    examples: Examples,
    decisions: Path,
    *,
    views: Views | None = None,
    reviewer: str = "",
    port: int = 0,
    relearn_every: int | None = None,
    show: Callable[[str], Any] = print,
) -> None:
    """Serve the page of a review until Ctrl-C.

    Args:
        examples: Examples of an audit.
        decisions: File of the decisions, or the folder that holds decisions.jsonl.
        views: Views of the examples; None for those that fit the location of the data.
        reviewer: Default name of the reviewer.
        port: Port to listen at; 0 chooses a free one.
        relearn_every: Number of decisions after which the order is learned again; 0 keeps the audit's order, None for
            25.
        show: Called with the address once the page can be opened.

    Raises:
        EmphasisError: The data or the decisions cannot be read.
        OSError, OverflowError: The port is taken or invalid.
    """
    path = decisions / DECISIONS if decisions.is_dir() else decisions
    options = {} if relearn_every is None else {"relearn_every": relearn_every}
    session = ReviewSession(examples, views or views_of(examples), DecisionLog(path), **options)
    config = uvicorn.Config(
        ReviewPage(session, reviewer).app(), log_level="warning", access_log=False, lifespan="off", ws="none"
    )
    server = _Server(config)
    server.show = show
    import socket

    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST_NAMES[1], port))
        server.address = f"http://{HOST_NAMES[0]}:{listening.getsockname()[1]}/"
        server.run(sockets=[listening])


class _Server(uvicorn.Server):  # type: ignore[misc]
    """A server that calls a function when it is ready."""

    show: Callable[[str], Any]
    address: str

    async def startup(self, sockets: Any = None) -> None:
        """Start, and call the function."""
        await super().startup(sockets=sockets)
        self.show(self.address)
