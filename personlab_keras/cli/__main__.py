"""`python -m personlab_keras.cli` is the command `personlab`."""

import sys

from personlab_keras.cli import main

if __name__ == "__main__":
    sys.exit(main())
