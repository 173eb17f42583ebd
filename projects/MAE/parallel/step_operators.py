"""The operators of a training step and the memory of the tensors between them.

A forward pass is recorded operator by operator; the backward pass follows from it. Two numbers come
out: the bytes of all tensors together, which is what OneFlow 0.9 reserves on a CPU (its planner
leaves CPU tensors out of memory sharing), and the largest sum of tensors alive at one time, which
its planner comes close to on a GPU.
"""
import dataclasses


@dataclasses.dataclass(eq=False)
class Tensor:
    """Bytes of a tensor, whether it has a gradient, and the tensor that it is a view of."""

    size: float
    has_gradient: bool = True
    base: "Tensor" = None

    def memory(self):
        """The tensor whose memory this one uses where views are shared."""
        return self.base.memory() if self.base else self


@dataclasses.dataclass(eq=False)
class Operator:
    """A forward operator, and what its gradient does.

    others: further results. keeps: tensors that the gradient reads again. view: the result needs no memory of its own where
    memory is shared. passes: the inputs that the gradient of the result serves as it is. fuses: the
    gradient adds to one that its input has already. reduces: ranks sum the gradient of the input.
    block: the number of the transformer block, None outside of blocks.
    """

    inputs: tuple
    result: Tensor
    others: tuple
    keeps: tuple
    view: bool
    passes: tuple
    fuses: bool
    reduces: bool
    block: int


class Step:
    """Records the forward pass of one micro-batch on one rank and derives the rest.

    Args:
        item_size: bytes of a number, 4 or under mixed precision 2.
        recompute: whether blocks run a second time in the backward pass (activation
            checkpointing).
    """

    def __init__(self, item_size=4, recompute=False):
        self.item_size, self.recompute = item_size, recompute
        self.block = None
        self.operators = []
        self.tensors = []
        self.reads = []  # of each operator that runs, in order: tensors
        self.writes = []  # likewise
        self.backward_start = None
        self.reduced = 0.0  # bytes of tensors that ranks sum

    def tensor(self, numbers, item_size=None, has_gradient=True, base=None):
        """A tensor of so many numbers; one that comes from outside, if no operator writes it."""
        size = numbers * (item_size or self.item_size)
        tensor = Tensor(size, has_gradient, base)
        self.tensors.append(tensor)
        return tensor

    def run(
        self,
        numbers,
        *inputs,
        keeps=(),
        item_size=None,
        view=False,
        passes=(),
        fuses=False,
        reduces=False,
        also=(),
    ):
        """Record an operator; returns its result, a tensor of so many numbers.

        Args:
            inputs: tensors; where one has a gradient, so has the result.
            keeps: of those that the gradient reads again; None stands for the result.
            passes: True for all inputs, or some of them.
            view, fuses, reduces: see `Operator`.
            also: numbers of further results, which its gradient alone reads.
        """
        has_gradient = any(x.has_gradient for x in inputs)
        base = inputs[0] if view else None
        result = self.tensor(numbers, item_size, has_gradient, base)
        others = tuple(self.tensor(count, has_gradient=False) for count in also)
        keeps = tuple(result if x is None else x for x in keeps) + others
        passes = inputs if passes is True else passes or ()
        self.operators.append(
            Operator(inputs, result, others, keeps, view, passes, fuses, reduces, self.block)
        )
        self._emit(inputs, result, *others)
        return result

    def all_reduce(self, x):
        """The sum of x over the tensor-parallel ranks; its memory is that of communication."""
        self.reduced += x.size
        return x

    def backward(self):
        """Append the backward pass, from the last operator that has a gradient."""
        self.backward_start = len(self.writes)
        gradients = {}
        last = next(o for o in reversed(self.operators) if o.result.has_gradient)
        gradients[last.result] = [self._copy_of(last.result)]
        again, block = {}, None
        for operator in reversed(self.operators):
            if self.recompute and operator.block is not None and operator.block != block:
                block = operator.block
                again = self._run_again(block)
            if operator.result in gradients:
                self._differentiate(operator, gradients, again)

    def _differentiate(self, operator, gradients, again):
        dy = self._sum(gradients.pop(operator.result))
        keeps = [again.get(x, x) for x in operator.keeps]
        for x in operator.inputs:
            if not x.has_gradient:
                continue
            if any(x is y for y in operator.passes):
                gradients.setdefault(x, []).append(dy)
                continue
            pending = gradients.get(x, []) if operator.fuses else []
            dx = self._copy_of(x, base=dy if operator.view else None)
            self._emit([dy, *keeps, *pending], dx)
            if operator.reduces:
                self.reduced += dx.size
                total = self._copy_of(dx)
                self._emit([dx], total)
                dx = total
            gradients[x] = [dx] if operator.fuses else gradients.get(x, []) + [dx]

    def _sum(self, parts):
        if len(parts) == 1:
            return parts[0]
        total = self._copy_of(parts[0])
        self._emit(parts, total)
        return total

    def _run_again(self, block):
        """Run a block's operators once more; returns {tensor: its second copy}."""
        again = {}
        for operator in self.operators:
            if operator.block == block:
                inputs = [again.get(x, x) for x in operator.inputs]
                result = self._copy_of(operator.result, base=inputs[0] if operator.view else None)
                others = [self._copy_of(x) for x in operator.others]
                self._emit(inputs, result, *others)
                again.update(zip((operator.result, *operator.others), (result, *others)))
        return again

    def _copy_of(self, tensor, base=None):
        copy = Tensor(tensor.size, tensor.has_gradient, base)
        self.tensors.append(copy)
        return copy

    def _emit(self, reads, *results):
        self.reads.append(list(reads))
        self.writes.append(results)

    def total(self):
        """Bytes of all tensors, each with memory of its own."""
        return sum(tensor.size for tensor in self.tensors)

    def peak(self):
        """Bytes of the tensors alive together at the worst moment, views sharing memory.

        A tensor lives from the operator that writes it to the last one that reads it.
        """
        first, last = self._lifetimes()
        change = [0.0] * (len(self.writes) + 1)
        for tensor, start in first.items():
            change[start] += tensor.size
            change[last[tensor] + 1] -= tensor.size
        alive = peak = 0.0
        for amount in change:
            alive += amount
            peak = max(peak, alive)
        return peak

    def kept(self):
        """Bytes of the forward pass's tensors that the backward pass reads."""
        first, last = self._lifetimes()
        start = self.backward_start
        return sum(t.size for t in first if first[t] < start <= last[t])

    def _lifetimes(self):
        first = {t: 0 for t in self.tensors if t.base is None}
        for i, results in enumerate(self.writes):
            first.update({tensor: i for tensor in results if tensor.base is None})
        last = dict(first)
        for i, reads in enumerate(self.reads):
            for tensor in reads:
                last[tensor.memory()] = i
        return first, last
