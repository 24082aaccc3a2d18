"""Finding commands, and what a user sees when something goes wrong."""

import errno
import os
import re
import subprocess
import sys

import pytest
import torch

from worldline import __version__
from worldline.cli import main as cli
from worldline.errors import ConfigError

from .tiny import run, start


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_overview_names_every_command(arguments, capsys):
    assert run(*arguments) == 0
    text = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert f"  {name} " in text
        assert command.summary in text


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"worldline {__version__}\n"


def test_unknown_command_gets_the_nearest_one(capsys):
    assert run("trian") == 2
    assert "no command 'trian'. Did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_has_help_with_examples(name, capsys):
    with pytest.raises(SystemExit) as ended:
        run(name, "--help")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: worldline {name}" in text
    assert "Examples:" in text
    assert f"  worldline {name}" in text


def test_every_option_has_a_help_text(capsys):
    for name in cli.COMMANDS:
        with pytest.raises(SystemExit):
            run(name, "--help")
        lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
        for line in (line for line in lines if re.match(r"--\w", line)):
            words = line.split(maxsplit=2)
            assert len(words) > 1, f"{name}: {line}"
            assert not words[-1].startswith("(default"), f"{name}: {line}"


def test_help_does_not_load_torch():
    code = (
        "import sys\nfrom worldline.cli.main import main\n"
        "for arguments in ([], ['train', '--help'], ['demo', '--help'], ['collect', '--help'], ['eval', '--help']):\n"
        "    try: main(arguments)\n    except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'gymnasium' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_wrong_option_is_told_with_the_nearest_one(capsys):
    with pytest.raises(SystemExit) as ended:
        run("collect", "CartPole-v1", "--out", "a.npz", "--episode", "3")
    assert ended.value.code == 2
    assert "--episodes" in capsys.readouterr().err


def test_errors_are_one_message_without_traceback(monkeypatch, capsys):
    def fail(arguments):
        raise ConfigError("Expected a, got b. Use [c].")

    monkeypatch.setattr("worldline.cli.inspect.main", fail)
    assert run("inspect", "models") == 2
    captured = capsys.readouterr()
    assert captured.err == "error: Expected a, got b. Use [c].\n"
    assert captured.out == ""


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    def fail(arguments):
        raise AssertionError("a bug")

    monkeypatch.setattr("worldline.cli.inspect.main", fail)
    with pytest.raises(AssertionError, match="a bug"):
        run("inspect", "models")


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.npz"), "No space left on device: 'a.npz'. Make room"),
        (MemoryError("Unable to allocate 9 TiB"), "Out of memory: Unable to allocate 9 TiB. Ask for less"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "Out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "Out of memory"),
    ],
)
def test_what_the_machine_lacks_is_one_message(trouble, message, monkeypatch, capsys):
    def fail(arguments):
        raise trouble

    monkeypatch.setattr("worldline.cli.inspect.main", fail)
    assert run("inspect", "models") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("mistake", [RuntimeError("a bug"), FileNotFoundError(errno.ENOENT, "a bug", "file")])
def test_errors_that_only_look_like_the_machines_keep_their_traceback(mistake, monkeypatch):
    def fail(arguments):
        raise mistake

    monkeypatch.setattr("worldline.cli.inspect.main", fail)
    with pytest.raises(type(mistake), match="a bug"):
        run("inspect", "models")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["inspect", "models"]])
def test_a_reader_that_has_seen_enough_ends_it_quietly(arguments):
    process = start(*arguments)
    process.stdout.close()
    error = process.stderr.read()
    assert (process.wait(), error) == (cli.PIPE_CLOSED, "")


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys):
    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("worldline.cli.train.main", interrupt)
    monkeypatch.setattr("worldline.cli.collect.main", interrupt)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    assert run("train", "dreamerv3", "--data", "my file.npz") == 130
    assert "worldline train dreamerv3 --data 'my file.npz' --resume\n" in capsys.readouterr().err
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("sys.argv", ["/src/worldline/__main__.py"])  # by `python -m worldline`
    assert run("train", "dreamerv3") == 130
    assert f"{sys.executable} -m worldline train dreamerv3 --resume\n" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["bin/worldline"])
    assert run("train", "dreamerv3") == 130
    assert "bin/worldline train dreamerv3 --resume\n" in capsys.readouterr().err
    assert run("train", "dreamerv3", "--resume") == 130
    assert capsys.readouterr().err.count("--resume") == 1
    assert run("collect", "CartPole-v1") == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_warnings_are_told_without_source_lines(monkeypatch, capsys):
    import warnings

    text = "\x1b[33mWARN: mind [this]\x1b[0m"
    monkeypatch.setattr("worldline.cli.inspect.main", lambda arguments: warnings.warn(text, stacklevel=1))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run("inspect", "models") == 0
    assert capsys.readouterr().err == "warning: mind [this]\n"


def test_the_installed_program_returns_the_status():
    process = start("nonsense")
    _, error = process.communicate()
    assert process.returncode == 2
    assert error.startswith("error: There is no command 'nonsense'.")


@pytest.mark.parametrize(("rank", "is_taken_down"), [("0", True), ("1", False)])
@pytest.mark.parametrize(("argument", "status"), [("--version", 0), ("nonsense", 2)])
def test_all_but_the_first_of_several_processes_end_at_once(rank, is_taken_down, argument, status):
    code = "import atexit; atexit.register(print, 'taken down'); from worldline.cli.main import entry; entry()"
    environment = {**os.environ, "WORLD_SIZE": "2", "RANK": rank}
    done = subprocess.run([sys.executable, "-c", code, argument], env=environment, capture_output=True, text=True)
    assert done.returncode == status
    assert ("taken down" in done.stdout) is is_taken_down
    assert ("worldline" in done.stdout) is (status == 0)  # nothing that was printed is lost
