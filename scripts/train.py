"""`personlab train` as a script, for TPU and cluster queues that start a file."""

import sys

from personlab_keras.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
