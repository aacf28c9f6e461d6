"""What is said where an optional package is missing."""


def missing(extra: str, error: ImportError) -> ImportError:
    """The error to raise when a package of the optional dependency ``extra`` cannot be imported."""
    return ImportError(f"{error}; this needs packages that are optional: pip install 'fpo-torchrl[{extra}]'")
