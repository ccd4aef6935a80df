"""What goes wrong for a reason that the user can mend."""


class InputError(ValueError):
    """Input that cannot be used. The message says what is wrong and what to do; the command line prints it
    as one line and exits with 2. Any other exception is a fault of this project and keeps its traceback."""
