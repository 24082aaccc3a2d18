"""The server of `worldline view`: read-only, for this machine alone.

`Viewer.answer` decides what is answered, from the name of a page and that of a run that is there; `_Handler` speaks
HTTP, and refuses what a foreign web page could send here: other methods, and other names of the host (DNS rebinding).
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import os
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes, urlsplit

from worldline.cli import runs, view_pages
from worldline.cli.view_files import RunFolder, find_runs
from worldline.errors import ConfigError, FileError
from worldline.report.page import Index, Page, asset, render, style

HOST = "127.0.0.1"
_MAX_REPORT_BYTES = 32 << 20
_SECONDS = 10.0  # that a client may take to say what it wants
_HTML, _TEXT = "text/html; charset=utf-8", "text/plain; charset=utf-8"


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _page_policy() -> str:
    """Allow our own style and script, word for word, and nothing else."""
    return (
        f"default-src 'none'; style-src {_source(style())}; script-src {_source(asset('live.js'))}; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


# A report is a file that anybody may have put there: it has styles of its own, and may do nothing.
_FILE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; sandbox"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What is sent back."""

    content: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = _TEXT
    policy: str = _FILE_POLICY


class Viewer:
    """Answers requests with pages about the runs in the folder `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def answer(self, target: str) -> Answer:
        """Return the answer to `target`, the address of a page without the host."""
        if not target.startswith("/"):
            return _refusal(HTTPStatus.BAD_REQUEST, "The address must begin with a slash.")
        address = urlsplit(target)
        page, _, name = os.fsdecode(unquote_to_bytes(address.path[1:])).partition("/")
        folders = find_runs(self.root)
        if (page, name) == ("", ""):
            return _page(view_pages.index_page(folders, self.root))
        if (page, name) == ("compare", ""):
            return _compare(folders, address.query)
        if page not in _PAGES or name not in folders:
            return _refusal(HTTPStatus.NOT_FOUND, "There is no such page. / lists the runs.")
        try:
            return _PAGES[page](folders[name])
        except FileError as error:
            return _refusal(HTTPStatus.NOT_FOUND, str(error))


class ViewServer(ThreadingHTTPServer):
    """Serves the runs in `root` on 127.0.0.1; port 0 takes a free one.

    Raises:
        ConfigError: The port cannot be used.
    """

    def __init__(self, root: Path, port: int) -> None:
        self.viewer = Viewer(root)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = str(error).rstrip(".")
            raise ConfigError(f"Cannot listen on port {port}: {reason}. Choose another one with --port.") from error

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over a client that went away, or said nothing; what else goes wrong is a mistake of ours."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer
    timeout = _SECONDS
    server_version, sys_version = "worldline", ""

    def do_GET(self) -> None:
        self._send(self._answer())

    def do_HEAD(self) -> None:
        self._send(self._answer())

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Say in plain text what http.server does not like."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            code, message = HTTPStatus.METHOD_NOT_ALLOWED, "Only GET and HEAD are answered."
        self.close_connection = True
        status = HTTPStatus(code)
        self._send(_refusal(status, message or status.phrase))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing on the terminal."""

    def _answer(self) -> Answer:
        port = self.server.server_port
        hosts = {f"{name}:{port}" for name in (HOST, "localhost")}
        given = self.headers.get_all("Host", [])
        if len(given) != 1 or given[0].strip().lower() not in hosts:
            return _refusal(HTTPStatus.FORBIDDEN, f"This is http://{HOST}:{port} and answers to no other name.")
        return self.server.viewer.answer(self.path)

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        for name, value in (
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.content))),
            ("Content-Security-Policy", answer.policy),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.content)


def _page(page: Page | Index) -> Answer:
    # A name of a file that is no UTF-8 is shown with question marks.
    content = render(page).encode(errors="replace")
    return Answer(content=content, content_type=_HTML, policy=_page_policy())


def _report(folder: RunFolder) -> Answer:
    return Answer(content=folder.read(runs.REPORT, _MAX_REPORT_BYTES), content_type=_HTML)


def _config(folder: RunFolder) -> Answer:
    return Answer(content=folder.read(runs.CONFIG, view_pages.MAX_CONFIG_BYTES))


# What there is of a run, by the first part of its address.
_PAGES: dict[str, Callable[[RunFolder], Answer]] = {
    "run": lambda folder: _page(view_pages.run_page(folder)),
    "report": _report,
    "config": _config,
}


def _compare(folders: dict[str, RunFolder], query: str) -> Answer:
    try:
        fields = parse_qsl(query, max_num_fields=4 * view_pages.MAX_COMPARED, errors="surrogateescape")
    except ValueError:
        fields = []
    names = list(dict.fromkeys(value for key, value in fields if key == "run"))
    if not 1 <= len(names) <= view_pages.MAX_COMPARED:
        return _refusal(HTTPStatus.BAD_REQUEST, f"Tick 1 to {view_pages.MAX_COMPARED} runs.")
    if not all(name in folders and folders[name].is_run for name in names):
        return _refusal(HTTPStatus.NOT_FOUND, "One of these runs is not there any more. / lists the others.")
    return _page(view_pages.compare_page([folders[name] for name in names]))


def _refusal(status: HTTPStatus, why: str) -> Answer:
    return Answer(status=status, content=f"{why}\n".encode(errors="replace"))
