"""The one exception for input that a user can mend: its text is a single line that the command line
prints as it is.
"""


class InputError(ValueError):
    """Bad input. The message names the file or field, the rule, and what came; the command line
    exits with status 2.
    """


class Stopped(Exception):
    """A run that was asked to stop and did, with everything saved; the text says how to go on."""
