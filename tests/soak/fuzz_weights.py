"""Read broken and hostile weight files and folders of runs, many thousands, and say what happened.

A twelfth of the cases is sizes of images for the native image code, under the address sanitizer
(`csrc/image/check.sh`; without a C++ compiler there are none).

    .venv/bin/python tests/soak/fuzz_weights.py                    # 100,000 cases on all cores
    .venv/bin/python tests/soak/fuzz_weights.py --case 4711        # one of them, with its traceback

Allowed are a right result and a UserError. Everything else is a failure: another exception, a process
that dies, more than 10 seconds, more than 256 MiB, a file opened outside the case's folder or for
writing, and whatever Python's audit hooks tell of a program, a module or a connection that is
started. Exit status 1 if there was any. PYTHONPATH is set here.
"""
import argparse
import codecs
import collections
import itertools
import multiprocessing
import os
import queue
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "../..")))
import numpy as np  # noqa: E402

from projects.MAE.checkpoint import manifest, names, reader, training_state  # noqa: E402
from projects.MAE.errors import UserError  # noqa: E402
from projects.MAE.report import page as report_page  # noqa: E402
from projects.MAE.report.run import read_run  # noqa: E402
from projects.MAE.weights import files, sizes, source  # noqa: E402
from tests.soak import fuzz, fuzz_files  # noqa: E402

SECRET = "hunter2"
STYLE = os.path.realpath(os.path.join(os.path.dirname(report_page.__file__), "page.css"))
SECONDS, MEMORY = 10, 256 * 2**20
CHUNK = 250
IMAGES, IMAGE_CHUNK = "image code", 10_000
IMAGE_CHECK = os.path.join(os.path.dirname(__file__), "../../csrc/image/check.sh")
FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen",
    "socket.connect", "socket.bind", "pickle.find_class", "exec", "compile", "import", "ctypes.dlopen",
    "os.remove", "os.rename", "os.mkdir", "os.rmdir", "shutil.rmtree",
)  # fmt: skip


class Forbidden(BaseException):
    """What a reader must not do was about to happen. No `except Exception` stops it."""


class Watch:
    """Python's audit events while a reader works, held against what it may do."""

    folder = None  # of the case that is read; None between cases

    def __init__(self):
        sys.addaudithook(self.hear)

    def hear(self, event, arguments):
        if self.folder is None:
            return
        if event in FORBIDDEN:
            self.refuse(f"{event} {str(arguments)[:200]}")
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            path, mode = os.path.realpath(os.fsdecode(arguments[0])), arguments[1] or "r"
            if path == STYLE:  # the report's own
                return
            if not path.startswith(self.folder + os.sep) and path != self.folder:
                self.refuse(f"opened {path}")
            if set(mode) & set("wax+"):
                self.refuse(f"opened {path} for writing")

    def refuse(self, what):
        self.folder = None  # reporting it may open and import files
        raise Forbidden(what)


def read(kind, folder):
    """Read a case as the project would; returns {name: array}, and what it says beside them."""
    path = os.path.join(folder, {"torch": "w.pth", "torch pickle": "w.pth"}.get(kind, "w"))
    if kind.startswith("libai"):
        checkpoint = names.find_checkpoint(path)
        reader.check_part(os.path.join(checkpoint, "model"))
        return reader.read_weights(checkpoint), reader.read_card(checkpoint)
    if kind == "manifest":
        checkpoint = names.find_checkpoint(path)
        manifest.check_whole(checkpoint)
        return reader.read_weights(checkpoint), reader.read_card(checkpoint)
    if kind == "run":
        found = source.read_source(path)
        source.preprocessing_of(found)
        return found.state, found.facts
    if kind == "state":
        return read_state(path), {}
    if kind == "report":
        return {}, {"page": report_page.report([read_run(path)])}
    if kind in ("safetensors", "card"):
        path += ".safetensors"
    state, facts = files.read_weight_file(path)
    sizes.known_heads(state)
    sizes.sizes_of(state, path)
    return state, facts


def read_state(path):
    """The tensors of what a run goes on with besides its weights."""
    parts = {name: os.path.join(path, name) for name in ("graph", "optimizer", "lr_scheduler")}
    read = {name: reader.read_part(folder) for name, folder in parts.items()}
    training_state.check_graph(read["graph"], parts["graph"], fuzz_files.TRAINED)
    shapes = [list(fuzz_files.TRAINED.values())]
    training_state.check_optimizer(read["optimizer"], parts["optimizer"], shapes)
    assert type(training_state.step_of(read["lr_scheduler"], parts["lr_scheduler"])) is int
    tensors = {}

    def take(tensor):
        tensors[tensor.folder] = tensor.read("the state").astype(np.float32)

    read["graph"].pop(training_state.MODEL, None)
    for state in (read["graph"], read["optimizer"]["state"]):
        reader.replace_tensors(state, take)
    return tensors


def check(state, facts, size):
    """Raise an AssertionError unless a result is one that the rest of the project can work with."""
    assert isinstance(state, dict) and isinstance(facts, dict)
    for name, array in state.items():
        assert isinstance(name, str) and isinstance(array, np.ndarray), name
        assert array.dtype == np.float32, (name, array.dtype)
        array.max(initial=0)  # touches every page that is mapped
    assert sum(a.nbytes for a in state.values()) <= 8 * size + 2**20, "more tensors than the file holds"
    for markup in ("<script", SECRET, "root:x:"):
        assert markup not in facts.get("page", ""), markup
    for key in ("num_heads", "decoder_num_heads", "epoch"):
        assert type(facts.get(key) or 0) is int, (key, facts[key])
    assert isinstance(facts.get("norm_pix_loss") or False, bool), facts["norm_pix_loss"]
    classes = facts.get("classes") or []
    assert isinstance(classes, list) and all(isinstance(c, str) for c in classes), classes


def run_case(number, seeds, watch, folder):
    """"read", "refused" or "FAILED: ..." of a case."""
    kind, files = fuzz.case(number, seeds)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    fuzz_files.write(files, folder)
    signal.alarm(SECONDS)  # ends the process, as no handler of Python's could interrupt C code
    try:
        watch.folder = os.path.realpath(folder)
        state, facts = read(kind, folder)
        watch.folder = None
        check(state, facts, sum(map(len, files.values())))
        outcome = "read"
    except UserError:
        outcome = "refused"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of safetensors' Rust code is no Exception
        watch.folder = None
        where = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{type(error).__name__}: {str(error)[:300]}"
        outcome = f"FAILED: {kind}: {message} ({os.path.basename(where.filename)}:{where.lineno})"
        if os.environ.get("FUZZ_TRACEBACK"):
            traceback.print_exc()
    finally:
        watch.folder = None
        signal.alarm(0)
    return kind, outcome


def prepare():
    """(seeds, watch) in this process, whose memory is limited from here on."""
    seeds, watch = fuzz_files.Seeds(), Watch()
    os.environ["FUZZ_SECRET"] = SECRET
    for codec in ("raw_unicode_escape", "unicode_escape", "latin1", "ascii"):
        codecs.lookup(codec)  # of pickles of protocol 0; Python imports them when first used
    with tempfile.TemporaryDirectory() as folder:
        for kind in fuzz.KINDS:  # every module is imported, and every seed is right
            fuzz_files.write(seeds.files[kind], folder)
            state, facts = read(kind, folder)
            check(state, facts, 2**30)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    return seeds, watch


def work(own, chunks, results, current):
    """A worker: run chunks of cases, its own first, and say the number of each before it is begun."""
    seeds, watch = prepare()
    with tempfile.TemporaryDirectory() as folder:
        for start, stop in itertools.chain(own, iter(chunks.get, None)):
            found = []
            for number in range(start, stop):
                current.value = number
                found.append((number, *run_case(number, seeds, watch, os.path.join(folder, "case"))))
            results.put(found)
    results.put(None)


def run_all(first, count, workers):
    """Yield (case, kind, outcome) of all cases; a worker that dies is one too, and is replaced."""
    context = multiprocessing.get_context("spawn")
    chunks, results = context.Queue(), context.Queue()
    for start in range(first, first + count, CHUNK):
        chunks.put((start, min(start + CHUNK, first + count)))
    for _ in range(workers):
        chunks.put(None)
    processes = []

    def begin(own=()):
        current = context.Value("q", -1)
        process = context.Process(target=work, args=(own, chunks, results, current), daemon=True)
        process.start()
        processes.append((process, current))

    for _ in range(workers):
        begin()
    ended = 0
    while ended < workers:
        try:
            found = results.get(timeout=1)
        except queue.Empty:  # has a worker died?
            for pair in [p for p in processes if not p[0].is_alive() and p[0].exitcode]:
                processes.remove(pair)
                number = pair[1].value
                if number < 0:
                    raise SystemExit("a worker ended before its first case") from None
                yield number, "?", f"FAILED: the process died, status {pair[0].exitcode}"
                start = number - (number - first) % CHUNK
                begin([(start, number), (number + 1, min(start + CHUNK, first + count))])
            continue
        if found is None:
            ended += 1
        else:
            yield from found


def run_images(first, count):
    """Yield (case, kind, outcome) of cases of the native image code; one that fails ends its chunk."""
    environment = dict(os.environ, LD_PRELOAD="")  # another library would come before the sanitizer's
    for start in range(first, first + count, IMAGE_CHUNK):
        cases = min(IMAGE_CHUNK, first + count - start)
        command = ["bash", IMAGE_CHECK, "address", str(cases), str(start)]
        ended = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        found = re.search(r"(\d+) images resized, (\d+) sizes refused", ended.stdout)
        if ended.returncode or not found:
            yield start, IMAGES, f"FAILED: {cases} cases from here on: {ended.stdout[-2000:]}"
            continue
        resized, refused = map(int, found.groups())
        for number in range(cases):
            yield start + number, IMAGES, "read" if number < resized else "refused"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--case", type=int, help="run this one only, in this process")
    args = parser.parse_args()
    if args.case is not None:
        os.environ["FUZZ_TRACEBACK"] = "1"
        with tempfile.TemporaryDirectory() as folder:
            print(*run_case(args.case, *prepare(), os.path.join(folder, "case")))
        return 0
    start, counts, failures = time.perf_counter(), collections.Counter(), []
    has_compiler = shutil.which(os.environ.get("CXX", "g++")) is not None
    images = args.cases // (len(fuzz.KINDS) + 1) if has_compiler else 0
    every = itertools.chain(
        run_images(args.first, images), run_all(args.first, args.cases - images, args.workers)
    )
    for so_far, (number, kind, outcome) in enumerate(every, 1):
        if so_far % 10_000 == 0:
            print(f"{so_far} cases, {len(failures)} failures so far", file=sys.stderr, flush=True)
        counts[kind, outcome.split(":")[0]] += 1
        if outcome.startswith("FAILED"):
            failures.append((number, outcome))
    seconds = time.perf_counter() - start
    for kind in (*fuzz.KINDS, IMAGES):
        said = [f"{counts[kind, outcome]:7} {outcome.lower()}" for outcome in ("read", "refused", "FAILED")]
        print(f"{kind:13}", *said)
    for number, outcome in itertools.islice(failures, 40):
        print(f"case {number}: {outcome}")
    done = sum(counts.values())
    print(f"{done} cases, {len(failures)} failures, {seconds:.0f} s, {done / seconds:.0f} cases a second")
    return int(bool(failures) or done < args.cases)


if __name__ == "__main__":
    sys.exit(main())
