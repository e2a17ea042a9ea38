"""The one exception that a user is meant to read."""


class NearsightError(Exception):
    """Bad input or a run that cannot go on: one line that says what is wrong and names the remedy.

    The command line prints it and exits with status 1; a library caller may catch it.
    """
