"""`python -m benchmarks [GROUP ...] [--json FILE] [--quick]`"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from benchmarks import asynchronous, contended, memory, report, resize, uncontended
from benchmarks.measure import Row

GROUPS = {module.GROUP: module for module in (uncontended, asynchronous, contended, resize, memory)}


def as_json(row: Row) -> dict[str, object]:
    return dataclasses.asdict(row) | {"verdict": row.verdict, "is_steady": row.is_steady}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="mempool measured beside its alternatives")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"{', '.join(GROUPS)}; all by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--quick", action="store_true", help="under half a minute; fewer elements and shorter runs")
    options = parser.parse_args(arguments)
    unknown = [group for group in options.groups if group not in GROUPS]
    if unknown:
        parser.error(f"no group {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    report.print_head()
    rows: list[Row] = []
    for group in dict.fromkeys(options.groups or GROUPS):
        measured = list(GROUPS[group].run(quick=options.quick))
        report.print_group(group, measured)
        rows += measured
    report.print_verdict(rows)
    if options.json:
        figures = {"machine": report.machine(), "quick": options.quick, "rows": [as_json(row) for row in rows]}
        options.json.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
