"""Short graphs in a process of their own: on a CPU, OneFlow's die of SIGSEGV now and then.

It is the fault that `forward_graphs_work_on` tells of, in a thread of OneFlow: it took the process of
a whole run of the tests with it. Training on a CPU makes no such graph: of forward graphs what is
tested here is what GPUs launch; others train a single layer. A process that dies of that fault is started again; anything else is a failure.
"""
import importlib
import signal
import subprocess
import sys
import warnings

import numpy as np

from tests.support.command import ROOT

TRIES = 4
FAULT = (-signal.SIGSEGV, -signal.SIGABRT)


def launched(cases, folder):
    """Launch the graph of each of the cases, by default an `EvalGraph`, once.

    Args:
        cases: "module:function"; the function gives {name: (model, {name: global tensor}, fp16)}, or in
            place of the three a function that launches a graph of its own and returns its results.
        folder: where the results may be written.

    Returns:
        {name: {name of a result: array}}.
    """
    path = folder / "results.npz"
    command = [sys.executable, "-m", "tests.support.short_graphs", cases, str(path)]
    for _ in range(TRIES):
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600
        )
        if done.returncode not in FAULT:
            break
        # So that a crash that comes often is seen at the end of the tests.
        warnings.warn(f"{cases}: died of {signal.Signals(-done.returncode).name}, started again")
    assert done.returncode == 0, done.stdout
    found = {}
    with np.load(path) as file:
        for key in file.files:
            case, name = key.split("|")
            found.setdefault(case, {})[name] = file[key]
    return found


def main(cases, path):
    from projects.MAE.modeling.graph import EvalGraph
    from projects.MAE.runtime.single_process import start_one_process

    start_one_process("cpu")
    module, function = cases.split(":")
    found = {}
    for case, launch in getattr(importlib.import_module(module), function)().items():
        if callable(launch):
            results = launch()
        else:
            model, inputs, fp16 = launch
            results = EvalGraph(model.eval(), fp16=fp16)(**inputs)
        results = results if isinstance(results, dict) else {"features": results}
        found.update({f"{case}|{name}": tensor.numpy() for name, tensor in results.items()})
    np.savez(path, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
