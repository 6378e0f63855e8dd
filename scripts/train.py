"""Train LeNet-5 on all cores: the same as ``parallel-lenet train``."""

import sys

from parallel_lenet.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
