"""Read back what Weights & Biases wrote in its offline mode."""

import json
import time


def records_of(file):
    """Yield the whole records of a `.wandb` file, which has the form of LevelDB's logs and may be written still."""
    from wandb.proto import wandb_internal_pb2

    block, header = 32768, 7
    data, at, parts = file.read_bytes(), header, []
    assert data.startswith(b":W&B")
    while at + header <= len(data):
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if at + header + length > len(data):
            return
        parts.append(data[at + header : at + header + length])
        at += header + length
        if kind in (1, 4):  # whole, or the last of several parts
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record
        if block - at % block < header:
            at += block - at % block


def read_run(file):
    """Return what a `.wandb` file holds of its run, and the pictures and tables beside it."""
    found = {"settings": {}, "history": [], "last": {}, "system": 0, "artifacts": [], "file": file}
    found["pictures"] = sorted(file.parent.rglob("*.png"))
    found["tables"] = {
        path.name.split("_")[0]: json.loads(path.read_text())
        for path in file.parent.rglob("*.table.json")
    }
    for record in records_of(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found |= {"name": run.display_name, "group": run.run_group, "id": run.run_id}
            found |= {"job": run.job_type, "tags": list(run.tags)}
            found["begun"] = run.start_time.ToNanoseconds()
        if kind in ("run", "config"):
            updates = record.run.config.update if kind == "run" else record.config.update
            for item in updates:
                key = "/".join(item.nested_key) or item.key
                found["settings"][key] = json.loads(item.value_json)
        elif kind == "history":
            row = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            found["history"].append(row)
            found["last"] |= row
        elif kind == "stats":
            found["system"] += 1
        elif kind == "artifact":
            found["artifacts"].append(record.artifact)
        elif kind == "exit":
            found["exit"] = record.exit.exit_code
    return found


def finished_runs(folder):
    """Return what is below a folder, in its order in time, once wandb's own process has written the end of each run."""
    files = list(folder.rglob("*.wandb"))
    until = time.monotonic() + 60
    while time.monotonic() < until:
        runs = [read_run(file) for file in files]
        if all("exit" in run for run in runs):
            break
        time.sleep(0.2)
    # Folders are named by the second, within which several runs may begin.
    return sorted(runs, key=lambda run: run["begun"])


def series(run, name):
    """Return a curve: (step, value) wherever it was logged."""
    return [(row["trainer/global_step"], row[name]) for row in run["history"] if name in row]
