"""The error of everything that a user's files can get wrong."""


class InputError(ValueError):
    """Bad input. The message is one line: what was wrong, what was got, how to fix it."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
