"""`worldline view`: look at the runs in a folder, in a browser on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from worldline.cli.options import parse
from worldline.errors import FileError

_DESCRIPTION = """\
Serve the runs in a folder as pages, to this machine alone: a list of them, the curves of each, which follow a run while
it trains, several side by side, and their reports. Nothing is written, and nothing else in the folder is shown.

Examples:
  worldline view runs
  worldline view runs --port 8000 --open
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """Options of `worldline view`."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUNS")] = Path("runs")
    """The folder of runs, or of one."""
    port: int = 7007
    """Where to listen on 127.0.0.1; 0 takes a free port."""
    open: bool = False
    """Open the list in the browser."""


def main(arguments: Sequence[str]) -> None:
    """Run the command until Ctrl-C."""
    options = parse(ViewOptions, arguments, command="view", description=_DESCRIPTION)
    from worldline.cli.terminal import results
    from worldline.cli.view_server import HOST, ViewServer

    folder = options.folder.expanduser()
    if not folder.is_dir():
        raise FileError(f"There is no folder {folder}. Give the one that holds the runs, such as runs.")
    with ViewServer(folder, options.port) as server:
        url = f"http://{HOST}:{server.server_port}/"
        results.print(f"The runs in {folder}: {url} (Ctrl-C ends it)", soft_wrap=True)
        results.file.flush()
        if options.open:
            import webbrowser

            webbrowser.open(url)
        # Ctrl-C is for the main thread, which does nothing else: code that it interrupts might swallow it.
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        with contextlib.suppress(KeyboardInterrupt):
            serving.join()
        if serving.is_alive():
            server.shutdown()
