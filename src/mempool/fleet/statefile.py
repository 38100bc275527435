"""What a fleet's pools shall be, in a file: for a controller that may die. Written whole, or not at all."""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterable
from pathlib import Path

from mempool.fleet.values import Order

VERSION = 1


class StateFile:
    """One file. path: where; its folder is there."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = Path(path)

    def load(self) -> list[Order]:
        """What was saved last; nothing where there is no file yet. Raises ValueError for what is no such file."""
        try:
            text = self.path.read_text("utf-8")
        except FileNotFoundError:
            return []
        try:
            state = json.loads(text)
            if state["version"] != VERSION:
                raise ValueError(f"its version is {state['version']!r}, and this mempool reads {VERSION}")
            return [Order.from_wire({**wire, "source": base64.b64decode(wire["source"])}) for wire in state["pools"]]
        except (KeyError, TypeError, ValueError, binascii.Error) as fault:
            raise ValueError(
                f"{self.path} holds no state of a fleet: {fault}. Move it away to begin without, or put back one that does"
            ) from fault

    def save(self, orders: Iterable[Order]) -> None:
        """Replace what is there. Whoever reads at any moment, also after a crash, finds the old or the new."""
        pools = [{**order.as_wire(), "source": base64.b64encode(order.source).decode("ascii")} for order in orders]
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            with beside.open("w", encoding="utf-8") as file:
                json.dump({"version": VERSION, "pools": pools}, file, indent=1)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path)
        finally:
            beside.unlink(missing_ok=True)
