"""The one exception for mistakes a user can fix."""


class UserError(Exception):
    """Bad input: the message is one line naming the file, line, field or flag and what to do.

    Commands print it as ``sbs: error: MESSAGE`` without a traceback and exit with status 2.
    """
