"""The names of uvicorn's that it does not document, and that the drain and the bound of ASGI connections rest on."""

from __future__ import annotations

import inspect
from importlib import import_module

from twisted.trial.unittest import SynchronousTestCase

from tests.system.asgi_case import SKIP_UVICORN

NAMES = {
    "uvicorn.server:ServerState": ("connections", "tasks", "default_headers"),
    "uvicorn.protocols.http.h11_impl:H11Protocol": (
        *("transport", "server_state", "cycle", "scope", "conn", "app", "client", "server", "loop"),
        *("ws_protocol_class", "handle_websocket_upgrade", "timeout_keep_alive"),
        *("timeout_keep_alive_task", "timeout_keep_alive_handler", "connection_made", "connection_lost"),
        *("data_received", "send_400_response"),
    ),
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol": (
        *("transport", "server_state", "cycle", "scope", "pipeline", "app", "client", "server", "loop"),
        *("ws_protocol_class", "handle_websocket_upgrade", "timeout_keep_alive"),
        *("timeout_keep_alive_task", "timeout_keep_alive_handler", "connection_made", "connection_lost"),
        *("data_received", "send_400_response", "on_headers_complete", "on_body", "url", "headers", "logger"),
    ),
    "uvicorn.protocols.http.h11_impl:RequestResponseCycle": (
        *("transport", "scope", "response_started", "response_complete", "more_body"),
        "headers = self.default_headers + list(",
    ),
    "uvicorn.protocols.http.httptools_impl:RequestResponseCycle": (
        *("transport", "scope", "response_started", "response_complete", "more_body"),
        "headers = self.default_headers + list(",
    ),
    "uvicorn.protocols.websockets.websockets_sansio_impl:WebSocketsSansIOProtocol": (
        *("shutdown", "connection_made", "connection_lost", "1012"),
    ),
}
"""Where each is written: it must stand in the source of that class."""


class NamesTests(SynchronousTestCase):
    """A new uvicorn that has them no more is found here, and not in a deploy that loses requests."""

    skip = SKIP_UVICORN

    def test_names(self) -> None:
        """Each is there still."""
        for place, names in NAMES.items():
            module, _, kind = place.partition(":")
            source = inspect.getsource(getattr(import_module(module), kind))
            for name in names:
                self.assertIn(
                    name,
                    source,
                    f"uvicorn has changed: {place} has no {name!r} any more, which "
                    "serverworker/processes/hosts/asgi_protocols.py needs to drain and bound connections",
                )
