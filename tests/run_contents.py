"""What a command has written, as far as it must not depend on kills, machines or moments."""

import json

import SimpleITK
from safetensors import safe_open

COSTS = {"seconds", "peak_memory_mb"}
# What another process may rightly write otherwise: the machine, a checkpoint's own clock, and of a model card the hash
# of a file whose metadata stand in any order.
UNCOMPARED = {"environment.json", "checkpoint.ckpt", "README.md"}


def contents(folder):
    """Return what files of a folder hold, by path, as far as it must not depend on a kill."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.name in UNCOMPARED:
            found[name] = None
        elif path.name == "metrics.json":
            metrics = json.loads(path.read_text())
            found[name] = {key: value for key, value in metrics.items() if key not in COSTS}
            # Trials lie in folders of their own.
            for place in ("case_folder", "case_from_run"):
                found[name].pop(place, None)
        elif path.name.endswith(".nii.gz"):
            found[name] = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).tobytes()
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                tensors = {key: file.get_tensor(key).tobytes() for key in sorted(file.keys())}
                found[name] = (tensors, file.metadata())
        else:
            found[name] = path.read_bytes()
    return found
