"""The one kind of error a user can cause and mend."""

__all__ = ["UserError"]


class UserError(ValueError):
    """The input, the configuration or the machine is at fault.

    The message is one or two lines: where, what was found, why, and the repair. The command line
    prints it without a traceback and leaves with status 1.
    """
