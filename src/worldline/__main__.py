"""`python -m worldline COMMAND ...` is `worldline COMMAND ...`."""

from worldline.cli.main import entry

if __name__ == "__main__":
    entry()
