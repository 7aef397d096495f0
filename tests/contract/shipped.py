"""The webhooks as `config/webhook` has them, for tests that have the real API server call them."""

from __future__ import annotations

import base64
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import trustme
import yaml

from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER = ROOT / "config" / "webhook"
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"


def shipped(*doors: str) -> list[dict[str, Any]]:
    """The entries of these doors, in the order in which they are shipped."""
    hooks = [
        hook
        for path in sorted(FOLDER.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
        if document and document["kind"] == "MutatingWebhookConfiguration"
        for hook in document.get("webhooks", ())
    ]
    return [hook for hook in hooks if hook["name"].removesuffix(".imagestreams.dev") in doors]


def called_at(hook: dict[str, Any], url: str, ca: bytes, **labels: str) -> dict[str, Any]:
    """The entry with another address (the door's path and what follows it), for namespaces that have these labels too.

    Its failurePolicy is Fail: what would be passed over in silence fails a test.
    """
    selector = {**hook.get("namespaceSelector", {})}
    selector["matchLabels"] = {**selector.get("matchLabels", {}), **labels}
    client = {"url": url, "caBundle": base64.b64encode(ca).decode()}
    return {
        **hook,
        "clientConfig": client,
        "failurePolicy": "Fail",
        "timeoutSeconds": 10,
        "namespaceSelector": selector,
    }


@contextmanager
def serving(answer: Callable[[str, bytes], bytes]) -> Iterator[tuple[str, bytes]]:
    """A server on loopback, over TLS, that gives a door's answer to a review; yields its URL and its authority's PEM.

    A door is the last part of a path. The server is in threads of its own, for tests that do nothing else meanwhile.
    """
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            door = self.path.partition("?")[0].rpartition("/")[2]
            content = answer(door, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}", authority.cert_pem.bytes()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
