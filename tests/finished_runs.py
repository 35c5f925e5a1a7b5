"""What tests read of the folders of runs."""

import json


def rows_of(folder):
    """Return the lines of results.jsonl without what may differ between two runs: timings and the revision."""
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for row in rows:
        del row["seconds"], row["revision"]
    return rows
