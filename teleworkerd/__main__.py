"""`python -m teleworkerd` is `teleworkerd`."""

import sys

from teleworkerd.main import main


if __name__ == "__main__":
    sys.exit(main())
