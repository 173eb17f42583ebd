"""What a process that computes on a CPU needs in its environment when it starts.

tools/common.sh runs this file, for training and the tests: it imports nothing but Python's own.
"""
import glob
import os
import sys

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def cpu_environment(threads):
    """{name: value} for the environment; "LD_PRELOAD" is among them where MKL is installed, and
    "LD_LIBRARY_PATH" where the folder's name holds a blank, at which the former is split. Both are
    split at colons: below a folder with one MKL can't be named.

    The BLAS inside OneFlow is ten times slower than MKL on most CPUs. OneFlow calls BLAS through
    the dynamic linker, so a library that is preloaded takes its place. What is preloaded already
    stays, as do numbers of threads that are set already.
    """
    variables = {name: os.environ.get(name) or str(threads) for name in THREADS}
    libraries = sorted(glob.glob(os.path.join(sys.prefix, "lib", "libmkl_rt.so.*")))
    if libraries and ":" not in libraries[0]:
        folder, name = os.path.split(libraries[0])
        by_name = any(character.isspace() for character in folder)
        variables["LD_PRELOAD"] = _first(name if by_name else libraries[0], "LD_PRELOAD")
        if by_name:
            variables["LD_LIBRARY_PATH"] = _first(folder, "LD_LIBRARY_PATH")
    return variables


def _first(item, variable):
    """A list, items separated by colons, of the environment, with this item before the others."""
    others = [other for other in os.environ.get(variable, "").split(":") if other not in ("", item)]
    return ":".join([item, *others])


def main():
    """Print the variables for as many threads as the argument says, a line `name=value` each."""
    variables = cpu_environment(sys.argv[1])
    print(*(f"{name}={value}" for name, value in variables.items()), sep="\n")
    if "LD_PRELOAD" not in variables:
        slower = "OneFlow's own operators use its own, slower BLAS."
        print(f"No MKL below {sys.prefix}: {slower}", file=sys.stderr)


if __name__ == "__main__":
    main()
