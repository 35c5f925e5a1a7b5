"""A Bokeh server that is reachable from this computer only."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from bokeh.application import Application
from bokeh.application.handlers import FunctionHandler
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from bokeh.server.util import bind_sockets
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.routing import HostMatches, Rule, RuleRouter

from emphasis.loopback import HOST_NAMES, free_port


class LocalServer(BaseServer):  # type: ignore[misc]
    """A Bokeh server that accepts connections from this computer only, addressed by the computer's local names.

    Requests with another Host header (as after DNS rebinding) and websockets of other origins are refused.

    Args:
        make: Fills the document of each visitor.
        port: Port to listen at; 0 chooses a free one.
    """

    def __init__(self, make: Callable[[Any], None], port: int) -> None:
        free_port(port)  # bind_sockets would leave sockets open if the port is taken
        sockets, port = bind_sockets(HOST_NAMES[0], port)
        pages = BokehTornado(
            {"/": Application(FunctionHandler(make))},
            extra_websocket_origins=[f"{name}:{port}" for name in HOST_NAMES],
        )
        names = HostMatches(f"({'|'.join(map(re.escape, HOST_NAMES))})")
        http = HTTPServer(RuleRouter([Rule(names, pages)]))
        http.add_sockets(sockets)
        super().__init__(IOLoop.current(), pages, http)


def run_until_stopped(server: LocalServer, show: Callable[[], None]) -> None:
    """Serve until Ctrl-C; call `show` once the server responds."""
    server.io_loop.add_callback(show)
    try:
        server.io_loop.start()
    finally:
        server.stop()
