"""`make bench`: the table of what was measured, beside the peers, in one run."""

import argparse
import json
import sys
from pathlib import Path

from benchmarks import docker
from benchmarks.rows import ROWS, Bench, Row
from tests.support import platform

RESULTS = Path(__file__).parent / "results.json"


def main() -> int:
    """Measure the rows asked for; 0 when all were measured, whatever they show."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "--only", default="", help="names of rows, with commas: push-first,scale-20"
    )
    names = [name for name in parser.parse_args().only.split(",") if name] or list(ROWS)
    if unknown := [name for name in names if name not in ROWS]:
        print(f" !     No row {', '.join(unknown)}; there are {', '.join(ROWS)}.", file=sys.stderr)
        return 2
    rows = measure(names)
    RESULTS.write_text(json.dumps([row.as_dict() for row in rows], indent=2) + "\n")
    show(rows)
    return 0


def measure(names: list[str]) -> list[Row]:
    """Run the rows, one after another, on one platform and one Docker engine."""
    print("-----> Starting both sides", flush=True)
    with platform("bench") as ours, docker.engine() as peer:
        image = ours.data / "runtime"
        peer.import_base(base_rootfs(image))
        bench = Bench(ours, peer, ours.folder / "docker")
        rows = []
        for name in names:
            print(f"-----> {name}", flush=True)
            rows.append(ROWS[name](bench))
        return rows


def base_rootfs(root: Path) -> Path:
    """The stack's build image as a folder: the peer's builds start from the file system of ours."""
    from shipway.runtime.config import EngineConfig
    from shipway.runtime.engine import Engine

    engine = Engine(EngineConfig(root=root, run=root / "run"))
    [bottom, *_] = engine.images.get("stack/debian-13:run").layers
    return engine.layers.path(bottom.diff_id)


def show(rows: list[Row]) -> None:
    """Print the table."""
    print(f"\n{'row':22} {'ours':>14} {'peer':>14} {'ratio':>7} {'goal':>7}  peer is")
    for row in rows:
        mark = "" if row.reached else "  (not reached)"
        goal = f"{'≥' if row.more_is_better else '≤'} {row.goal:.2f}"
        print(
            f"{row.name:22} {_amount(row.ours, row.unit)} {_amount(row.peer, row.unit)}"
            f" {row.ratio:7.2f} {goal:>7}  {row.peer_name}{mark}"
        )


def _amount(value: float, unit: str) -> str:
    digits = 3 if value < 1000 else 0
    return f"{value:8.{digits}f} {unit:5}"


if __name__ == "__main__":
    sys.exit(main())
