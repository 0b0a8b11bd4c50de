"""Shows the examples of docstrings, which have no heading of their own, as code."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"(?:^|\n\n)(>>> .*?)(?=\n\n|\Z)", flags=re.DOTALL)


class Doctests(griffe.Extension):
    """Puts each paragraph that starts with `>>>` between fences."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each object whose docstring was read."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(
                lambda match: f"\n\n```pycon\n{match[1].rstrip()}\n```", obj.docstring.value
            )
