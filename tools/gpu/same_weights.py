"""Whether two output folders end in the same weights: python tools/gpu/same_weights.py A B

Compares the newest checkpoints bit by bit, the optimizer's state included; of the schedule's state
the numbers, since equal ones may be pickled in several ways.
"""
import glob
import os
import sys

import numpy as np

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.path.insert(0, ROOT)
SCHEDULE = "lr_scheduler/pickled_data"


def newest(folder):
    return sorted(glob.glob(f"{folder}/model_[0-9]*"))[-1]


def files(folder):
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, folder)] = file.read()
    return found


def schedule(folder):
    from projects.MAE.checkpoint.reader import read_part

    return read_part(os.path.join(folder, os.path.dirname(SCHEDULE)))


def main():
    one, two = (newest(folder) for folder in sys.argv[1:3])
    a, b = files(one), files(two)
    other = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
    if SCHEDULE in other and schedule(one) == schedule(two):
        other.remove(SCHEDULE)
    # A card tells when and where it was written.
    weights = [name for name in other if not name.endswith((".json", ".yaml", ".txt", ".md"))]
    print(f"{one} {two}: {len(a)} files; other: {', '.join(other) or 'none'}")
    for name in weights[:5]:
        if name in a and name in b and len(a[name]) == len(b[name]) and len(a[name]) % 4 == 0:
            x, y = (np.frombuffer(data[name], "f4").astype("f8") for data in (a, b))
            print(f"  {name}: differs by {np.abs(x - y).max():.3e}")
    print("SAME weights" if not weights else f"OTHER weights: {len(weights)} files")
    sys.exit(bool(weights))


if __name__ == "__main__":
    main()
