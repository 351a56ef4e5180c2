"""Who this process belongs to, by its uid: $USER may name another, and a container's user may have no name at all."""

from __future__ import annotations

import pwd


def user_name(uid: int) -> str:
    """The name that passwd has for a uid; empty where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def described(uid: int) -> str:
    """A user in a message: the name, else the uid."""
    return user_name(uid) or f"uid {uid}"
