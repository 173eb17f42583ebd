"""What a check of an operator is made of: inputs, the comparison, what was found."""
import math
from types import SimpleNamespace

import numpy as np

ULP16 = 2e-3  # of half precision's numbers around 1, twice

cases = {}
results = []  # (name, whether it was right)
place = SimpleNamespace(device="cpu")  # where operators run
rng = np.random.default_rng(5)
erf = np.vectorize(math.erf, otypes=["f8"])


def case(function):
    cases[function.__name__] = function
    return function


def normal(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def tensor(array, grad=False):
    import oneflow as flow

    return flow.from_numpy(np.ascontiguousarray(array)).to(place.device).requires_grad_(grad)


def check(name, found, wanted, tolerance=2e-5):
    """Note how far a result lies from what is wanted, relative to 1 + |wanted|."""
    found = np.asarray(found if isinstance(found, np.ndarray) else found.numpy())
    wanted = np.asarray(wanted)
    if found.shape != wanted.shape:
        return note(name, False, f"shape {found.shape}, not {wanted.shape}")
    error = np.abs(found.astype("f8") - wanted.astype("f8")) / (1 + np.abs(wanted.astype("f8")))
    worst = float(error.max()) if error.size else 0.0
    note(name, worst <= tolerance, f"{worst:.2e} {found.dtype}")


def note(name, good, text):
    results.append((name, good))
    if not good:
        print(f"  WRONG {name}: {text}", flush=True)


def slope(function, x, step=1e-4):
    """The derivative of an elementwise function, in float64."""
    x = x.astype("f8")
    return (function(x + step) - function(x - step)) / (2 * step)
