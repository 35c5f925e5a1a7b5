"""`python -m emphasis`."""

import sys

from emphasis.cli import main

if __name__ == "__main__":
    sys.exit(main())
