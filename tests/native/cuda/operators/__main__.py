"""Single operators of OneFlow against NumPy, where the kernels of csrc/cuda stand in for its own.

    python -m tests.native.cuda.operators cuda [NAME ...]              on a GPU
    python -m tests.native.cuda.operators emulated:LIBRARY [NAME ...]  on this CPU

Prints a line for each wrong result and a last line with the counts; the status is 1 where one was
wrong. `check` gathers what differs instead of stopping: a GPU machine is at hand for minutes.
"""
import os
import sys
import traceback

# In this order the cases draw their inputs.
from tests.native.cuda.operators import elements, rows, moving, training  # noqa: F401, I001
from tests.native.cuda.operators.checks import cases, note, place, results


def prepare(where):
    """Load the kernels: "cuda", "emulated:LIBRARY", or "cpu" for OneFlow's own."""
    from projects.MAE.runtime import cuda_kernels

    kind, _, library = where.partition(":")
    place.device = "cuda" if kind == "cuda" else "cpu"
    if kind == "emulated":
        cuda_kernels.emulate(library, has_code="STRICT" not in os.environ)
    elif kind == "cuda":
        print("kernels:", cuda_kernels.load(), flush=True)


def run(names=()):
    """Run the cases, all by default; returns how many checks there were and how many went wrong."""
    for name in names or cases:
        try:
            cases[name]()
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)
            own = [frame.lineno for frame in last if frame.name == name]
            note(name, False, f"line {own[-1]}: {type(error).__name__} {str(error)[:300]}")
    return len(results), sum(not good for _, good in results)


if __name__ == "__main__":
    prepare(sys.argv[1])
    count, wrong = run(sys.argv[2:])
    print(f"operators: {count - wrong} of {count} right", flush=True)
    os._exit(wrong != 0)
