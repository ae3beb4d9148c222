from demo import add


def test_small() -> None:
    assert add(1, 2) == 3


def test_large() -> None:
    assert add(1000, 2000) == 3000
