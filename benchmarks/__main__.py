"""`python -m benchmarks [SCRIPT …]`: scripts beside this one, all or those named; their claims become rows of docs/performance.md."""

import json
import subprocess
import sys
from pathlib import Path

from sleep_tune.files import write_text
from sleep_tune.machine import machine

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "performance.md"
BEGIN, END = "<!-- measured -->\n", "<!-- end -->\n"


def main() -> int:
    """Run the scripts named on the command line, or all. Returns 1 where one fails."""
    names = sys.argv[1:] or sorted(path.name for path in HERE.glob("[a-z]*.py") if '"claims"' in path.read_text())
    rows, failed = [], []
    for name in names:
        print(f"\n== {name}", flush=True)
        done = subprocess.run([sys.executable, str(HERE / name)], stdout=subprocess.PIPE, text=True)
        print(done.stdout, end="", flush=True)
        lines = [line for line in done.stdout.splitlines() if line.startswith('{"claims"')]
        if done.returncode or not lines:
            failed.append(name)
            continue
        rows += [(name, claim["claim"], claim["measured"]) for claim in json.loads(lines[-1])["claims"]]
    publish(rows)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def publish(rows: list[tuple[str, str, float]]) -> None:
    """Put the rows into the measured part of the page, in place of those of the same scripts."""
    on = machine()
    before, _, rest = PAGE.read_text().partition(BEGIN)
    old, _, after = rest.partition(END)
    measured = {name for name, _, _ in rows}
    lines = [f"| {name} | {claim} | {value:g} |" for name, claim, value in rows]
    lines += [line for line in old.splitlines() if ".py |" in line and line.split()[1] not in measured]
    table = [f"{on.processor}, {on.cores} cores, {on.memory_bytes / 2**30:.0f} GiB, {', '.join(on.gpus) or 'no GPU'}.\n"]
    table += ["| script | claim | measured |", "|---|---|---|", *sorted(lines, key=lambda line: line.split()[1])]
    write_text(PAGE, f"{before}{BEGIN}{chr(10).join(table)}\n{END}{after}")


if __name__ == "__main__":
    sys.exit(main())
