"""`python -m ovseg`, as launchers of several processes call it."""

import sys

from ovseg.cli import main

if __name__ == "__main__":
    sys.exit(main())
