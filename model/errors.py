"""The one exception that means "the person can mend this"."""


class UserError(ValueError):
    """A mistake in what a person gave us: a path, a recipe, a recording, a checkpoint of another model.

    The message is one line: what is wrong, the value, what to do. Every door (`slam-asr`, `python -m train`)
    prints it to stderr and exits with 2. Any other exception is ours, and keeps its traceback.
    """
