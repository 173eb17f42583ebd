"""The one exception that stands for a mistake of the user, not of the program."""


class UserError(Exception):
    """A mistake that the user can mend: one clear line naming key, value and the way out.

    The entry points print the message alone and exit with status 1; every other exception is
    a defect of the program and keeps its traceback.

    Args:
        local: only this rank can have found it (an unreadable image, say), so this rank says so.
            Every rank finds a mistake in the configuration, and rank 0 alone says so.
        told: all ranks have just agreed on this; they leave a moment later, see `leave_late`.
    """

    def __init__(self, message, local=False, told=False):
        super().__init__(message)
        self.local, self.told = local, told
