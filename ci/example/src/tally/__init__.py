"""Counts words."""

import sys
from collections import Counter

__all__ = ["main", "tally"]


def tally(text: str) -> list[tuple[str, int]]:
    """The words of a text and how often each occurs, most frequent first, then by the alphabet."""
    counted = Counter(text.lower().split())
    return sorted(counted.items(), key=lambda item: (-item[1], item[0]))


def main() -> None:
    """Counts the words of standard input."""
    for word, count in tally(sys.stdin.read()):
        print(f"{count:5} {word}")
