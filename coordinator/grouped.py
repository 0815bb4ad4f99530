"""Errors out of task groups come wrapped; operators are told the one that began it."""


def first(error: BaseException) -> BaseException:
    """The first error in a group of groups; any other error itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
