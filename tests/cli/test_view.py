"""worldline view: what its pages show, and that nothing but them can be had from it."""

import concurrent.futures
import html.parser
import http.client
import json
import os
import re
import signal
import socket
import threading
import time
import webbrowser
from urllib.parse import quote

import pytest
import yaml

from worldline.cli import view_files, view_pages, view_server
from worldline.cli.view_server import ViewServer
from worldline.report.page import asset

from .tiny import run, start

SECRET = "the secret"
CONFIG = {
    "model": "bc:small",
    "model_settings": {},
    "model_config": {"units": 64},
    "training": {"total_steps": 100},
    "data": None,
    "command": "worldline train",
    "versions": {},
}


def write_run(folder, *, steps=range(10, 60, 10), config=CONFIG, loss=lambda step: 1 / step, **more):
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.yaml").write_text(config if isinstance(config, str) else yaml.safe_dump({**config, **more}))
    lines = [{"step": step, "loss": loss(step), "train_seconds": step / 10} for step in steps]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    logged = time.time() - 5
    for path in folder.iterdir():
        os.utime(path, (logged, logged))  # before what is written next, however fast that is
    return folder


@pytest.fixture
def root(tmp_path):
    """A folder of runs beside a secret, with links to it."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "report.html").write_text(SECRET)
    (tmp_path / "secret" / "config.yaml").write_text(SECRET)
    (tmp_path / "secret" / "metrics.jsonl").write_text('{"step": 1, "loss": 123456}\n')
    root = tmp_path / "runs"
    write_run(root / "a")
    (root / "a" / "report.html").write_text("<h1>report of a</h1>")
    (root / "a" / "notes.txt").write_text(SECRET)
    return root


@pytest.fixture
def serve():
    servers = []

    def begin(root):
        server = ViewServer(root, 0)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return server.server_port

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()


def ask(port, target, *, method="GET", hosts=None):
    """Send a request as it is written, without what a client would tidy up; return status, headers, text."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    for host in [f"127.0.0.1:{port}"] if hosts is None else hosts:
        connection.putheader("Host", host)
    connection.endheaders()
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, response.headers, text


class Elements(html.parser.HTMLParser):
    """The tags of a page, each with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def links(self):
        return [attrs["href"] for tag, attrs in self.found if tag == "a"]


def test_the_list_shows_what_each_run_is_and_how_far(root, serve):
    online = {"env": "CartPole-v1"}
    write_run(root / "group" / "online", steps=range(10, 110, 10), online=online)
    with (root / "group" / "online" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 101, "eval/return": 487.5}\n')
    port = serve(root)
    status, headers, text = ask(port, "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    for words in ("bc:small", "bc:small · CartPole-v1", "50 / 100", "0.02", "487.5", "running", "finished", "2 runs"):
        assert words in text
    assert text.count('<svg class="spark"') == 2
    links = Elements(text).links()
    assert sorted(links) == ["/report/runs/a", "/run/runs/a", "/run/runs/group/online"]
    assert [ask(port, link)[0] for link in links] == [200, 200, 200]


def test_the_page_of_a_run_has_its_curves_and_settings(root, serve):
    port = serve(root)
    status, _, text = ask(port, "/run/runs/a")
    assert status == 200
    for words in ("step 50", "of 100", "<polyline", "All settings of the model", "units"):
        assert words in text
    assert "/config/runs/a" in Elements(text).links()
    _, headers, text = ask(port, "/config/runs/a")
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert text == (root / "a" / "config.yaml").read_text()
    assert ask(port, "/report/runs/a")[2] == "<h1>report of a</h1>"


def test_a_page_is_live_while_the_run_is(root, serve):
    port = serve(root)

    def is_live():
        return [f"<script>{asset('live.js')}</script>" in ask(port, page)[2] for page in ("/", "/run/runs/a")]

    assert is_live() == [False, False]  # its report is newer than its log: it has ended
    (root / "a" / "config.yaml").touch()
    assert is_live() == [True, True]  # it was resumed
    (root / "a" / "report.html").unlink()
    assert is_live() == [True, True]
    hour_ago = time.time() - 3600
    for path in (root / "a").iterdir():
        os.utime(path, (hour_ago, hour_ago))
    assert is_live() == [False, False]
    assert "stopped" in ask(port, "/")[2]
    (root / "a" / "final").mkdir()
    assert "finished" in ask(port, "/")[2]


def test_a_report_without_a_run_is_listed(root, serve):
    (root / "group").mkdir()
    (root / "group" / "report.html").write_text("of several runs")
    port = serve(root)
    assert "/report/runs/group" in Elements(ask(port, "/")[2]).links()
    assert ask(port, "/run/runs/group")[0] == 404
    assert ask(port, "/compare?run=runs/group")[0] == 404
    assert ask(port, "/report/runs/group")[2] == "of several runs"


def test_a_run_whose_lines_are_far_apart_is_not_taken_for_stopped(root, serve):
    lines = "".join(json.dumps({"step": step, "loss": 1.0, "train_seconds": 900 * step}) + "\n" for step in (1, 2))
    (root / "slow").mkdir()
    (root / "slow" / "metrics.jsonl").write_text(lines)
    for minutes, words in ((40, "Running"), (50, "Stopped")):
        changed = time.time() - 60 * minutes
        os.utime(root / "slow" / "metrics.jsonl", (changed, changed))
        assert words in ask(serve(root), "/run/runs/slow")[2]


def test_runs_are_compared(root, serve):
    write_run(root / "b", loss=lambda step: 7.0, model_config={"units": 32})
    _, _, text = ask(serve(root), "/compare?run=runs/a&run=runs/b&other=1")
    assert re.search(r'legend"[^>]*>a<.*legend"[^>]*>b<', text, re.DOTALL)
    assert "Settings that differ" in text
    assert all(words in text for words in ("units", "64", "32"))
    assert "total_steps" not in text


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 400),
        ("?" + "&".join(f"run={number}" for number in range(9)), 400),
        ("?" + "&".join("run=runs/a" for _ in range(5000)), 400),
        ("?run=runs/a&run=runs/none", 404),
        ("?run=../secret", 404),
        ("?run=runs/a&run=runs/a", 200),
    ],
)
def test_what_is_compared_must_be_there(query, status, root, serve):
    assert ask(serve(root), f"/compare{query}")[0] == status


TRAVERSALS = [
    "/report/../secret", "/report/..%2fsecret", "/report/%2e%2e/secret", "/report/%252e%252e/secret",
    "/report/%252e%252e%252fsecret", "/report/runs/../../secret", "/report/runs/a/../../../secret", "/report/runs//a",
    "/report/./runs/a", "/report/runs/a/.", "/report/runs%2fa%00", "/report/runs/a/report.html", "/report//etc/passwd",
    "/report/runs/a/notes.txt", "/runs/a/notes.txt", "/runs/a", "/a/report.html", "/etc/passwd", "//etc/passwd",
    "/report/..\\secret", "/report/runs\\a", "/config/runs/a/../a", "/report/secret", "/report/runs/link",
    "/report/runs/linked", "/config/runs/linked", "/report/runs/linked/inner", "/run/runs/link", "/config/runs/a%20",
    "/report/%ff%fe", "/report/" + "../" * 3000 + "secret", "/index.html", "/run/", "/run", "/compare/x",
    "/favicon.ico", "http://127.0.0.1/report/runs/a", "*", "report/runs/a", "/report/runs/a%3f",
    "/final/runs/a", "/metrics/runs/a",
]  # fmt: skip


@pytest.mark.parametrize("target", TRAVERSALS, ids=range(len(TRAVERSALS)))
def test_nothing_else_can_be_had(target, root, tmp_path, serve):
    (root / "link").symlink_to(tmp_path / "secret")
    write_run(root / "linked")
    (root / "linked" / "config.yaml").unlink()
    (root / "linked" / "config.yaml").symlink_to(tmp_path / "secret" / "config.yaml")
    (root / "linked" / "report.html").symlink_to(tmp_path / "secret" / "report.html")
    (root / "linked" / "inner").symlink_to(tmp_path / "secret")
    status, headers, text = ask(serve(root), target)
    assert status in (400, 404)
    assert SECRET not in text
    assert "root:" not in text
    assert headers["Content-Type"] == "text/plain; charset=utf-8"


def test_links_are_not_followed_into_the_list_either(root, tmp_path, serve):
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "b").mkdir()
    (root / "b" / "metrics.jsonl").symlink_to(tmp_path / "secret" / "metrics.jsonl")
    _, _, text = ask(serve(root), "/")
    assert "1 run," in text
    assert "123,456" not in text
    assert "123.5k" not in text


def test_a_link_that_takes_the_place_of_a_file_later_is_not_followed(root, tmp_path):
    """Between the moment when the run is found and that when its file is opened."""
    viewer = view_server.Viewer(root)
    found = view_server.find_runs(viewer.root)
    (root / "a" / "report.html").unlink()
    (root / "a" / "report.html").symlink_to(tmp_path / "secret" / "report.html")
    with pytest.raises(view_server.FileError):
        found["runs/a"].read("report.html", 1000)
    (root / "a").rename(root / "gone")
    (root / "a").symlink_to(tmp_path / "secret")
    with pytest.raises(view_server.FileError):
        found["runs/a"].read("report.html", 1000)
    assert found["runs/a"].metrics(1000) == []


@pytest.mark.parametrize(
    "hosts",
    [
        ["evil.example"], ["evil.example:{port}"], ["127.0.0.1"], ["localhost"], ["127.0.0.1:1"], [], [""],
        ["localhost:{port}.evil.example"], ["127.0.0.1:{port}", "evil.example"], ["[::1]:{port}"], ["0.0.0.0:{port}"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_foreign_names_of_the_host_are_refused(hosts, method, root, serve):
    port = serve(root)
    status, _, text = ask(port, "/", method=method, hosts=[host.format(port=port) for host in hosts])
    assert status == 403
    assert "bc:small" not in text


def test_both_names_of_this_machine_are_answered(root, serve):
    port = serve(root)
    assert [ask(port, "/", hosts=[f"{name}:{port}"])[0] for name in ("localhost", "LOCALHOST", "127.0.0.1")] == [
        200
    ] * 3


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "<script>"])
def test_only_reading_is_allowed(method, root, serve):
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    status, headers, text = ask(serve(root), "/run/runs/a", method=method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert "<" not in text
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_head_has_the_headers_and_no_content(root, serve):
    port = serve(root)
    _, headers, text = ask(port, "/config/runs/a", method="HEAD")
    assert text == ""
    assert int(headers["Content-Length"]) == len((root / "a" / "config.yaml").read_bytes())


def test_every_answer_keeps_the_browser_from_guessing_and_from_running_anything(root, serve):
    port = serve(root)
    for target in ("/", "/run/runs/a", "/compare?run=runs/a", "/report/runs/a", "/config/runs/a", "/none"):
        _, headers, _ = ask(port, target)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert ("sandbox" in policy) == (target in ("/report/runs/a", "/config/runs/a", "/none"))
        assert "script-src" not in policy or re.search(r"script-src 'sha256-[\w+/=]{44}';", policy)


def test_the_policy_allows_the_style_and_the_script_as_they_stand_on_the_page(root, serve):
    (root / "a" / "report.html").unlink()
    _, headers, text = ask(serve(root), "/run/runs/a")
    for tag in ("style", "script"):
        (found,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert view_server._source(found) in headers["Content-Security-Policy"]
    assert not re.search(r"<[^>]*\s(style|on\w+)=", text)  # which it would not allow


NAMES = [
    "<script>alert(1)<",
    "a b",
    "a&b=c",
    '"quoted"',
    "%2e%2e",
    "a..b",
    "ä ö",
    "#?",
    "a\nb",
    "+",
    "{{ 7 * 7 }}",
    "x" * 200,
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_are_text(name, root, serve):
    write_run(root / name)
    port = serve(root)
    status, _, text = ask(port, "/")
    assert status == 200
    assert "<script>alert" not in text
    (link,) = [link for link in Elements(text).links() if link.startswith("/run/") and link != "/run/runs/a"]
    status, _, page = ask(port, link)
    assert (status, "<polyline" in page, "<script>alert" in page) == (200, True, False)
    (box,) = [a["value"] for tag, a in Elements(text).found if tag == "input" and a["value"] != "runs/a"]
    assert box == f"runs/{name}"
    assert ask(port, f"/compare?run={quote(box, safe='')}&run=runs/a")[0] == 200


@pytest.mark.skipif(os.name == "nt", reason="names of files are text there")
def test_a_name_that_is_no_text_is_served_too(root, serve):
    write_run(root / os.fsdecode(b"\xff\xfe"))
    port = serve(root)
    links = [link for link in Elements(ask(port, "/")[2]).links() if link.startswith("/run/")]
    assert "/run/runs/%FF%FE" in links
    assert ask(port, "/run/runs/%FF%FE")[0] == 200


METRICS = [
    b"", b"\n\n", b"\x00" * 1000, b"\xff\xfe\n", b"[1]\n", b"{}\n", b'{"step": "x"}\n', b'{"step": 5, "loss": "x"}\n',
    b'{"step": 1, "loss": 1e308}\n{"step": 2, "loss": -1e308}\n',
    b'{"step": 1, "loss": 5e-324}\n{"step": 2, "loss": 0}\n',
    b'{"step": 1e300, "loss": 1}\n', b'{"step": -5, "loss": 1}\n', b'{"step": 1, "loss": null}\n', b"[" * 100_000,
    b'{"step": 1, "loss": ' + b"9" * 5000 + b"}\n", b'{"step": 1, "' + b"x" * 100_000 + b'": 1}\n',
    b'{"step": 1, "<script>alert(1)</script>": 1, "loss": 1}\n{"step": 2, "<script>alert(1)</script>": 2}\n',
    b'{"step": 9, "loss": 1}\n{"step": 3, "loss": 2}\n{"step": 9, "loss": 3}\n',
    b'{"step": 1, "loss": 1}\n{"step": 2, "lo',
    b'{"step": 1, "loss": 1, "steps_per_second": 0, "train_seconds": -1e99}\n{"step": 2, "steps_per_second": 1e99}\n',
    b'{"step": 1, "loss": 1}\n{"step": 2, "loss": 1.0000000000000002}\n{"step": 3, "loss": Infinity}\n',
]  # fmt: skip
CONFIGS = [
    "", "[", "- 1", "colour: red", "\x00", "a: &a [x]\nb: *a", "[" * 5000, "model: !!python/object/apply:os.system [x]",
    yaml.safe_dump({**CONFIG, "model": "<script>alert(1)</script>", "versions": {"<script>alert(1)</script>": "1"}}),
    "a: 1\n" * 50_000, yaml.safe_dump({**CONFIG, "training": {"total_steps": 0}}),
]  # fmt: skip


@pytest.mark.parametrize("content", METRICS, ids=range(len(METRICS)))
def test_damaged_metrics_leave_the_pages_standing(content, root, serve):
    (write_run(root / "b") / "metrics.jsonl").write_bytes(content)
    assert_all_stand(serve(root))


@pytest.mark.parametrize("content", CONFIGS, ids=range(len(CONFIGS)))
def test_damaged_settings_leave_the_pages_standing(content, root, serve):
    write_run(root / "b", config=content)
    assert_all_stand(serve(root))


def assert_all_stand(port):
    for target in ("/", "/run/runs/b", "/compare?run=runs/a&run=runs/b", "/config/runs/b"):
        status, headers, text = ask(port, target)
        assert status == 200 or (target, status) == ("/config/runs/b", 404)  # larger than is shown
        assert headers["Content-Type"].startswith("text/plain") or "<script>alert" not in text


def test_few_lines_do_not_stand_for_many(root, serve):
    """References within YAML, each to the one before, twice: 2**40 entries in 40 lines."""
    lines = ["a0: &a0 {x: 1}", *(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 40))]
    write_run(root / "b", config="\n".join(lines))
    _, _, text = ask(serve(root), "/run/runs/b")
    assert "an alias" in text


def test_what_is_no_regular_file_is_not_read(root, serve):
    (root / "b").mkdir()
    os.mkfifo(root / "b" / "metrics.jsonl")  # reading it would wait for ever
    (root / "b" / "config.yaml").mkdir()
    write_run(root / "c")
    port = serve(root)
    assert "2 runs" in ask(port, "/")[2]
    assert ask(port, "/run/runs/b")[0] == 404
    (root / "c" / "metrics.jsonl").unlink()
    os.mkfifo(root / "c" / "metrics.jsonl")
    assert ask(port, "/run/runs/c")[0] == 200
    assert ask(port, "/report/runs/c")[0] == 404


def test_large_files_are_sampled_or_refused(root, serve, monkeypatch):
    write_run(root / "b", steps=range(1, 100_001), loss=lambda step: step / 1e5)
    monkeypatch.setattr(view_pages, "_PAGE_BYTES", 400_000)
    monkeypatch.setattr(view_server, "_MAX_REPORT_BYTES", 1000)
    (root / "b" / "report.html").write_bytes(b"x" * 1001)
    port = serve(root)
    _, _, text = ask(port, "/run/runs/b")
    assert "step 100,000" in text
    points = re.search(r'<polyline[^>]* points="([^"]*)"', text)[1].split()
    assert len(points) > 50
    xs, ys = zip(*(map(float, point.split(",")) for point in points), strict=True)
    assert list(xs) == sorted(xs)
    assert list(ys) == sorted(ys, reverse=True)  # upwards is towards 0 in SVG
    assert ask(port, "/report/runs/b")[0] == 404


def test_many_ask_at_once_while_a_run_is_written(root, serve):
    port = serve(root)
    stop = threading.Event()

    def train():
        with (root / "a" / "metrics.jsonl").open("ab", buffering=0) as file:
            step = 60
            while not stop.wait(0.001):  # a writer without a pause would leave the server no time
                file.write(b'{"step": %d, "loss"' % step)
                file.write(b": 0.5}\n")
                step += 10

    writer = threading.Thread(target=train)
    writer.start()
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            targets = ["/", "/run/runs/a", "/compare?run=runs/a", "/report/runs/a"] * 4
            assert [status for status, _, _ in pool.map(lambda target: ask(port, target), targets)] == [200] * 16
    finally:
        stop.set()
        writer.join()


def test_a_client_that_says_nothing_keeps_nobody_waiting(root, serve, capfd):
    port = serve(root)
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    assert ask(port, "/")[0] == 200
    for connection in silent:
        connection.close()
    assert ask(port, "/")[0] == 200
    assert capfd.readouterr().err == ""


def test_the_folder_may_be_a_run_or_empty(root, serve):
    port = serve(root / "a")
    _, _, text = ask(port, "/")
    assert Elements(text).links() == ["/run/a", "/report/a"]
    assert ask(port, "/run/a")[0] == 200
    (root / "none").mkdir()
    assert "There is no run in" in ask(serve(root / "none"), "/")[2]


def test_the_command_serves_until_ctrl_c(root):
    process = start("view", root, "--port", 0)
    port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())[1])
    assert ask(port, "/run/runs/a")[0] == 200
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")


@pytest.mark.parametrize(("more", "num_opened"), [([], 0), (["--open"], 1)])
def test_the_browser_is_opened_only_on_request(more, num_opened, root, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(ViewServer, "serve_forever", lambda server: None)
    monkeypatch.setattr(webbrowser, "open", opened.append)
    assert run("view", root, "--port", 0, *more) == 0
    assert len(opened) == num_opened
    assert all(url in capsys.readouterr().out for url in opened)


def test_a_folder_full_of_other_things_is_not_looked_through(root, serve, monkeypatch):
    monkeypatch.setattr(view_files, "_MAX_FOLDERS", 20)
    for number in range(100):
        (root / "z" / str(number)).mkdir(parents=True)
    assert len(list(view_files._walk(root))) == 20
    write_run(root / "one" / "two" / "three" / "four")
    assert "four" not in ask(serve(root), "/")[2]


def test_only_this_machine_is_listened_to(root):
    with ViewServer(root, 0) as server:
        assert server.socket.getsockname()[0] == "127.0.0.1"


def test_wrong_use(root, tmp_path, capsys):
    assert run("view", tmp_path / "none") == 2
    assert "There is no folder" in capsys.readouterr().err
    with ViewServer(root, 0) as server:
        assert run("view", root, "--port", server.server_port) == 2
        assert "Choose another one with --port" in capsys.readouterr().err
    assert run("view", root, "--port", 70_000) == 2
    assert "Choose another one with --port" in capsys.readouterr().err
