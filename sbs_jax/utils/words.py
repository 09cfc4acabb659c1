"""Splits text into words: at spaces and marks; in scripts without spaces, at every character."""

import re

# Thai, Lao, Burmese, Khmer, Japanese and Chinese.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_UNSPACED += r"\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """The words of a text, in small letters.

    >>> words("Oil, 油让 metal slide")
    ['oil', '油', '让', 'metal', 'slide']
    """
    return _WORD.findall(text.casefold())


def whole(pattern: str) -> str:
    """A regular expression that finds `pattern` where it is no part of a longer word.

    >>> re.findall(whole("oil"), "oil and foil"), re.findall(whole("油"), "用油润滑")
    (['oil'], ['油'])
    """
    return rf"(?<![^\W{_UNSPACED}])(?:{pattern})(?![^\W{_UNSPACED}])"


def has_unspaced(text: str) -> bool:
    """Whether a text holds a character of a script without spaces."""
    return re.search(f"[{_UNSPACED}]", text) is not None
