"""How a command ends that cannot do what it was asked for."""


class CommandError(Exception):
    """A command cannot go on: no server answers, or standard input or output fails.

    It has no message if there is nobody to read one, as when `head` has closed the pipe.
    """

    exit_code = 1


class UsageError(CommandError):
    """A flag or environment variable is wrong."""

    exit_code = 2
