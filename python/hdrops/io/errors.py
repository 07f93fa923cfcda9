"""The error of everything that a user's files can get wrong."""


class InputError(ValueError):
    """Bad input. The message is one line: what was wrong, what was got, how to fix it."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch or an operator has run out of memory: each says it in its own way."""
    signs = ("allocate memory", "not enough memory", "out of memory", "bad_alloc")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)
