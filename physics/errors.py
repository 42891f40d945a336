"""The one exception that means "what was asked for is wrong", in every package."""


class InputError(ValueError):
    """A user's input is refused: the message names the field, the value received and the values allowed.

    Everything that meets a user (command line, HTTP) turns it into one clear sentence; any other
    exception is a defect of this project and keeps its traceback.
    """
