"""`python -m emphasis`."""

import sys

from emphasis.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
