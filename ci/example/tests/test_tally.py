import subprocess
import sys

import pytest

from tally import main, tally


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("b a B", [("b", 2), ("a", 1)]),
        ("one two", [("one", 1), ("two", 1)]),
    ],
)
def test_words_are_counted(text: str, expected: list[tuple[str, int]]) -> None:
    assert tally(text) == expected


def test_the_command_prints_a_line_per_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", iter_of("x x y"))
    main()
    assert capsys.readouterr().out == "    2 x\n    1 y\n"


def test_the_script_is_installed() -> None:
    done = subprocess.run(["tally"], input="a", capture_output=True, text=True, check=True)
    assert done.stdout == "    1 a\n"


def iter_of(text: str) -> object:
    class Stdin:
        def read(self) -> str:
            return text

    return Stdin()
