"""For mkdocs.yml: in a docstring, `name: what it is` and `name    what it is` at the left become items of a list."""

import re
from typing import Any

import griffe

FIELD = re.compile(r"(?P<names>[a-z_]\w*(?:, \w+)*)(?:: | {2,})(?P<words>\S.*)")


def listed(paragraph: str) -> str:
    """The paragraph as a list, if each of its lines is a field or goes on with one."""
    items: list[str] = []
    for line in paragraph.splitlines():
        if field := FIELD.fullmatch(line):
            items.append(f"- **{field['names']}**: {field['words']}")
        elif items and line.startswith("    "):
            items[-1] += f" {line.strip()}"
        else:
            return paragraph
    return "\n".join(items)


class Fields(griffe.Extension):
    """The extension."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Run on every object, once all are there."""
        if obj.docstring is not None:
            obj.docstring.value = "\n\n".join(map(listed, obj.docstring.value.split("\n\n")))
