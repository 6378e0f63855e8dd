"""``python -m parallel_lenet`` is the command ``parallel-lenet``."""

import sys

from parallel_lenet.cli import main

if __name__ == "__main__":
    sys.exit(main())
