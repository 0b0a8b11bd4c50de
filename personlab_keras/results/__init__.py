"""The people found in an image as a `Result`, and the files and objects of other tools that it
becomes.
"""

from personlab_keras.results.result import Result

__all__ = ["Result"]
