"""`python -m training fit` is `headlines fit`, and likewise `evaluate` and `synthesize`."""

import sys

from headlines.__main__ import main
from training.commands import COMMANDS

if __name__ == "__main__":
    sys.exit(main(commands=COMMANDS))
