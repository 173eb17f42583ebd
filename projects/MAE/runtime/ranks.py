"""What ranks tell one another: whether all found the same, what one has found, whole tensors."""
import json
import time

import numpy as np
import oneflow as flow
from libai.utils import distributed as dist

from projects.MAE.errors import UserError
from projects.MAE.runtime.watchdog import progress

LENGTH = 32  # bytes of a value that are compared
# OneFlow aborts a rank that has not read an answer when another is gone, and one that finds another
# gone later on: all wait until all have read it, and then leave at about the same time.
GRACE_SECONDS = 1


def check_agreement(name, value, way_out):
    """Raise a UserError on every rank unless all call this with the same value, a short text."""
    values = all_values(value)
    other = next((rank for rank, found in enumerate(values) if found != values[0]), None)
    if other is not None:
        raise UserError(
            f"{name}: rank 0 has {values[0]} and rank {other} {values[other]}, and all must have "
            f"the same: {way_out}",
            told=True,
        )


def leave_late():
    """Wait a moment before leaving, so that all ranks are past their last exchange.

    Symptom: where one leaves at once, OneFlow aborts or hangs another that has not read the answer,
    or not seen that its own was read. Call this after the error was printed.
    """
    if flow.env.get_world_size() > 1:
        time.sleep(GRACE_SECONDS)


def only_on_rank_0(function):
    """Call a function on rank 0; all get its result, as JSON has it, or raise its UserError."""
    encoded = None
    if flow.env.get_rank() == 0:
        try:
            outcome = ["result", function()]
        except UserError as error:
            fields = (error.problem, error.key, error.value, error.way_out, error.path)
            outcome = ["error", [field and str(field) for field in fields]]
        encoded = json.dumps(outcome).encode()
    what, value = json.loads(flow._oneflow_internal.cpu_broadcast(encoded, 0))
    progress()
    if what == "error":
        raise UserError(*value, told=True)
    return value


def together(check):
    """The result of check() on every rank, once all have done it.

    Where it raises a UserError on any rank, every rank raises one, and the first that found a mistake
    says so.
    """
    if flow.env.get_world_size() == 1:
        return check()
    result, problem = None, None
    try:
        result = check()
    except UserError as error:
        problem = error
    found = all_values("" if problem is None else "wrong")
    first = next((rank for rank, value in enumerate(found) if value), None)
    if first is None:
        return result
    rank = flow.env.get_rank()
    if rank == 0 and problem is None:
        raise UserError(f"rank {first} found a mistake: see its own message", told=True)
    if problem is None:
        raise UserError("another rank found a mistake", told=True)  # only rank 0 would say so
    problem.local, problem.told = rank == first, True
    raise problem


def all_values(value):
    """The texts that all ranks call this with, by rank; the first LENGTH bytes of each."""
    data = np.zeros((1, LENGTH), np.int32)
    encoded = value.encode()[:LENGTH]
    data[0, : len(encoded)] = list(encoded)
    return [bytes(row.astype(np.uint8)).rstrip(b"\0").decode() for row in _all_rows(data)]


def union(numbers):
    """The distinct numbers, ints >= 0 in any collection, that any rank calls this with; sorted."""
    length = max(map(int, all_values(str(len(numbers)))))
    data = np.full((1, length + 1), -1, np.int64)
    data[0, : len(numbers)] = sorted(numbers)
    return np.unique(_all_rows(data))[1:].tolist()


def _all_rows(data):
    """[1, n] of this rank -> [ranks, n]."""
    ranks = flow.placement("cpu", list(range(flow.env.get_world_size())))
    rows = flow.tensor(data).to_global(placement=ranks, sbp=flow.sbp.split(0))
    values = rows.to_global(sbp=flow.sbp.broadcast).to_local().numpy()
    progress()
    return values


def any_rank(*flags):
    """For each flag, whether any rank has set it; every rank calls this with as many flags.

    It is no operator of a graph, and done within a millisecond or so. A rank waits for the others.
    """
    progress()
    if flow.env.get_world_size() == 1:
        return list(flags)
    counts = flow.tensor([int(flag) for flag in flags], dtype=flow.int32)
    flow.comm.all_reduce(counts)  # a sum, in place
    return [count > 0 for count in counts.numpy().tolist()]


def gather(tensor):
    """A global tensor as a NumPy array, whole on every rank."""
    everywhere = flow.placement(tensor.placement.type, list(range(dist.get_world_size())))
    if tensor.placement != everywhere:
        sbp = [flow.sbp.broadcast] * tensor.placement.ranks.ndim
        tensor = tensor.to_global(sbp=sbp)
        tensor = tensor.to_global(placement=everywhere, sbp=flow.sbp.broadcast)
    whole = tensor.to_global(sbp=flow.sbp.broadcast).to_local().numpy()
    progress()
    return whole


def on_rank_0(tensor):
    """A global tensor as a whole array on rank 0, None elsewhere; every rank calls this."""
    here = flow.placement("cpu", tensor.placement.ranks)
    first = flow.placement("cpu", [0])
    with flow.no_grad():
        moved = tensor.to_global(placement=here, sbp=tensor.sbp)
        whole = moved.to_global(placement=first, sbp=flow.sbp.broadcast).to_local()
    progress()
    return whole.numpy() if flow.env.get_rank() == 0 else None
