"""`python -m twctl` is `twctl`."""

import sys

from twctl.cli import main


if __name__ == "__main__":
    sys.exit(main())
