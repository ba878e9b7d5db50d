"""The exceptions for a user's mistake, and the words of their messages."""


class UserError(ValueError):
    """Input or options that a person must correct.

    The message is one or two sentences: the file or utterance, what was found, what was expected and what to do. The
    command line prints it without a traceback and exits with status 1. A bug of the project itself is an ``assert`` or
    any other exception, and keeps its traceback.
    """


class UsageError(UserError):
    """Wrong options or a missing argument: exit status 2, like the errors of ``argparse``."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number and its noun for a message: ``1 utterance``, ``3,429 utterances``."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
