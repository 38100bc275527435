"""`python -m mempool`: the command line."""

import sys

from mempool.cli import main

if __name__ == "__main__":
    sys.exit(main())
