"""Every kernel of csrc/cuda/layers on one GPU: is it right, and how fast is it beside PyTorch's?

    python3 benchmarks/gpu_kernels.py [attention] [rows] [adamw] [products]

Needs PyTorch and NVRTC, no OneFlow. Each group is a process of its own; all compile at once and
have the GPU one after another, and after 145 s what is still running ends. The tables come last;
all that was measured, every variant, is in gpu_kernels.log, in $OUT if that is set. Times are
medians of batches of launches, inputs rotating so that the cache holds none.
"""

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

GROUPS = ["products", "adamw", "rows", "attention"]  # each a file beside this one, gpu_GROUP.py
LIMIT = 145  # seconds


def main(names):
    start, log, tables, running = time.time(), [], [], {}
    for name in names or GROUPS:
        command = [sys.executable, "-u", __file__, "--group", name]
        output = Path(f"/tmp/gpu_kernels_{name}.txt")
        with open(output, "w") as file:
            running[name] = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT), output
        time.sleep(0.2)
    for name, (process, output) in running.items():
        try:
            process.wait(max(1, start + LIMIT - time.time()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        lines = output.read_text().splitlines()
        log += lines
        tables.append(f"--- {name}, status {process.returncode}")
        tables += [line[2:] for line in lines if line.startswith("= ")]
        if process.returncode:
            tables += [line[:200] for line in lines[-12:]]
    (Path(os.environ.get("OUT", ".")) / "gpu_kernels.log").write_text("\n".join(log))
    print("\n".join(line[:150] for line in log if not line.startswith("= ")))
    print("\n".join(tables))
    print(f"{time.time() - start:.0f} s in all")


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
    elif sys.argv[1:2] == ["--group"]:
        getattr(importlib.import_module(f"benchmarks.gpu_{sys.argv[2]}"), sys.argv[2])()
    else:
        main(sys.argv[1:])
