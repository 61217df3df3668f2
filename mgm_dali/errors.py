"""The one kind of error a user can cause and mend; and what ends a run on request."""

__all__ = ["Stopped", "UserError"]


class UserError(ValueError):
    """The input, the configuration or the machine is at fault.

    The message is one or two lines: where, what was found, why, and the repair. The command line
    prints it without a traceback and leaves with status 1.
    """


class Stopped(Exception):
    """A run was asked to end before its last step, and has saved; the same command goes on.

    The command line leaves with `status`: 0 when the time it was given is over, 143 after SIGTERM.
    """

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status
