"""`personlab train` as a file: TPU and cluster queues want one to start."""

import sys

from personlab_keras.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
