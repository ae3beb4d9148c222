"""Adds."""


def add(a: int, b: int) -> int:
    """Gives the sum."""
    return a + b
