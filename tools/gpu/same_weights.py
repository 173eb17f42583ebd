"""Whether two output folders end in the same weights: python tools/gpu/same_weights.py A B

Compares the newest checkpoints bit by bit, the optimizer's state included.
"""
import glob
import os
import sys

import numpy as np


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


def main():
    one, two = (newest(folder) for folder in sys.argv[1:3])
    a, b = files(one), files(two)
    other = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
    # A card tells when and where it was written.
    weights = [name for name in other if not name.endswith((".json", ".yaml", ".txt", ".md"))]
    print(f"{one} {two}: {len(a)} files; other: {', '.join(other) or 'none'}")
    for name in weights[:5]:
        if name in a and name in b and len(a[name]) == len(b[name]) and len(a[name]) % 4 == 0:
            x, y = (np.frombuffer(data[name], "f4").astype("f8") for data in (a, b))
            print(f"  {name}: differs by {np.abs(x - y).max():.3e}")
    print("SAME weights" if not weights else f"OTHER weights: {len(weights)} files")
    sys.exit(bool(weights))


main()
