"""One self-contained HTML page per run: `axes` and `svg` draw, `figures` chooses what, `page` lays it out."""
