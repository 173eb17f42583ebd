"""The one exception that stands for a mistake of the user, not of the program."""


class UserError(Exception):
    """A mistake that the user can mend: one clear line naming key, value and the way out.

    The entry points print the message alone and exit with status 1; every other exception is
    a defect of the program and keeps its traceback.
    """
