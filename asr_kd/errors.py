"""The one exception of a user's mistake."""


class UserError(ValueError):
    """Input or options that a person must mend.

    The message is one or two sentences that name the file or utterance, what was found, what was expected and what
    to do. The command line prints it without a traceback and exits with 1. A mistake of the project's own is an
    ``assert`` or any other exception, and keeps its traceback.
    """
