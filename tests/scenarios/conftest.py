"""What a story needs: sites to tell it of, and the transcript that it is compared with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator

import pytest

from .story import Story


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Iterator[Callable[..., Story]]:
    """Begin the story of this test: its docstring is what the transcript begins with, its name the file's.

    What was told is printed, so that it is seen where a test fails before the end.
    """
    name, about = request.function.__name__.removeprefix("test_"), inspect.getdoc(request.function) or ""
    stories: list[Story] = []

    def begin(names: str = "ab", **options: int) -> Story:
        stories.append(Story(name, about, names, retell=request.config.getoption("--retell"), **options))
        return stories[-1]

    yield begin
    for story in stories:
        print(story.told)
