"""Consent: what a person has said about channels and categories of messages.

`{"sms/marketing": false}`: a channel and a category, either of which may be `*`. The most particular word counts; of
two that are equally particular, the no.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase

# the category of a message whose type is in no other
GENERAL = "general"


def category_of(kind: str | None, categories: Mapping[str, tuple[str, ...]]) -> str:
    """The category of a message by its `type`: the first one that has a pattern for it (`login`, `otp.*`)."""
    if kind is not None:
        for name, patterns in categories.items():
            if any(fnmatchcase(kind, pattern) for pattern in patterns):
                return name
    return GENERAL


def allowed(said: Mapping[str, bool], channel: str, category: str, *, opt_in: bool) -> tuple[bool, str]:
    """Whether a message of this category may go through this channel, and which word decides it.

    `opt_in`: of this category nothing may where nothing was said.
    """
    for keys in ((f"{channel}/{category}",), (f"{channel}/*", f"*/{category}"), ("*/*",)):
        words = [key for key in keys if key in said]
        for key in words:
            if not said[key]:
                return False, f"{key}: no"
        if words:
            return True, f"{words[0]}: yes"
    return (False, f"no consent to {category}") if opt_in else (True, "")
