from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta

from aiocluster.config.allowed import allowed

FROM_1_TO_9 = Annotated[int, Meta(ge=1, le=9)]


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (bool, "true or false"),
        (str, "a text"),
        (Literal["x"], "x"),
        (FROM_1_TO_9, "a whole number from 1 to 9"),
        (Annotated[float, Meta(gt=0)], "a finite number > 0"),
        (Annotated[float, Meta(ge=0.05)], "a finite number >= 0.05"),
        (Annotated[FROM_1_TO_9, Meta(description="...")], "a whole number from 1 to 9"),
        (FROM_1_TO_9 | Literal["a", "b"], "a whole number from 1 to 9, a or b"),
        (bool | Literal["auto"], "true, false or auto"),
    ],
)
def test_each_type_has_its_words(hint: Any, words: str) -> None:
    """A reader learns the choices and the bounds, and nothing of Python's types."""
    assert allowed(hint) == words


def test_a_type_without_words_is_a_mistake_of_ours() -> None:
    """A setting of a new type cannot be added without saying how to explain it."""
    with pytest.raises(TypeError, match="no words for"):
        allowed(dict[str, int])
