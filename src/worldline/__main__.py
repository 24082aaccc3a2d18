"""`python -m worldline COMMAND ...` is `worldline COMMAND ...`."""

import sys

from worldline.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
