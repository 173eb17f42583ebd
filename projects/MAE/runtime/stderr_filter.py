"""Keeps out of standard error what OneFlow says about a machine for having no GPU.

OneFlow 0.9 has no switch for these lines, and raising glog's level would hide real errors with them:

    libibverbs not available, ibv_fork_init skipped
    W2026... cuda_device_descriptor_class.cpp:48] CUDA driver version is insufficient for ...
    E2026... cuda_device_manager_factory.cpp:65] Failed to get cuda runtime version: ...

They say: no InfiniBand library, no GPU driver. Neither is needed on a CPU. Where there is a driver
(`nvidia-smi` is on the path) the last two name a real problem, and stay.

Left out, too, is what a rank says that OneFlow aborts because another has ended, "Machine 0 lost" or "EPOLLERR", and a
stack trace: the one that has ended, and the launcher, say why.

A process of its own reads what the C++ side writes, so that the last words of one that is killed or
aborts still come through. It runs this file, and ends when nobody can write to it any more.
"""
import os
import re
import select
import shutil
import subprocess
import sys

NO_INFINIBAND = rb"libibverbs not available, ibv_fork_init skipped"
NO_DRIVER = (
    rb"[WE]\d{8} [\d:.]+ +\d+ cuda_device_(descriptor_class|manager_factory)\.cpp:\d+\] "
    rb"(Failed to get cuda runtime version: )?"
    rb"(CUDA driver version is insufficient for CUDA runtime version|no CUDA-capable device is detected)"
)
LOST = re.compile(
    rb"F\d{8} [\d:.]+ +\d+ "
    rb"(ctrl_client\.cpp:\d+\] Check failed: .* Machine \d+ lost"
    rb"|io_event_poller\.cpp:\d+\] Check failed: .*EPOLLERR.*)\s*"
)
TRACE = re.compile(rb"\*\*\* Check failure stack trace: \*\*\*|    @ +0x[0-9a-f]+ .*")
PAUSE_SECONDS = 0.2  # how long the start of a line is held back for its end


def hide_known_noise():
    """Filter this process's standard error, and that of processes it starts, from here on.

    Python's own `sys.stderr` goes on to write straight to where it did, in order with `sys.stdout`.
    Call it before OneFlow is imported. MAE_NOISE=1 in the environment leaves all as it is.
    """
    if os.environ.get("MAE_NOISE") == "1":
        return
    real = os.dup(2)
    reader, writer = os.pipe()
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    has_driver = shutil.which("nvidia-smi") is not None
    subprocess.Popen(
        [sys.executable, "-I", "-S", os.path.abspath(__file__), "driver" if has_driver else "none"],
        stdin=reader,
        stdout=real,
        stderr=real,
        env=environment,
        start_new_session=True,  # Ctrl-C and the launcher's signals are for the ranks
    )
    os.close(reader)
    os.dup2(writer, 2)
    os.close(writer)
    sys.stderr = os.fdopen(real, "w", buffering=1, errors="backslashreplace")


def copy_without(noise, source, target):
    """Copy bytes from one file descriptor to another, but for lines that match `noise` in full, and
    for what OneFlow says of a lost rank."""
    pending, inside_line, in_trace = b"", False, False
    while True:
        # The rest of a line that was not waited for belongs to it, and the start of the next waits.
        ready = select.select([source], [], [], PAUSE_SECONDS if pending else None)[0]
        chunk = os.read(source, 1 << 16) if ready else b""
        *lines, rest = (pending + chunk).split(b"\n")
        for line in lines:
            in_trace = bool(LOST.fullmatch(line) or (in_trace and TRACE.fullmatch(line)))
            if inside_line or not (in_trace or noise.fullmatch(line)):
                _write(target, line + b"\n")
            inside_line = False
        pending = rest
        ended = bool(ready) and not chunk
        if pending and (ended or not ready):
            if inside_line or not ended or not noise.fullmatch(pending):
                _write(target, pending)
                inside_line = True
            pending = b""
        if ended:
            return


def _write(target, data):
    while data:
        try:
            data = data[os.write(target, data) :]
        except BrokenPipeError:
            return  # nobody reads it; what is filtered goes on


def known_noise(has_driver=None):
    """The pattern of a line, without its end, that is left out; None looks for a driver."""
    if has_driver is None:
        has_driver = shutil.which("nvidia-smi") is not None
    return re.compile(b"|".join([NO_INFINIBAND] + ([] if has_driver else [NO_DRIVER])))


if __name__ == "__main__":
    copy_without(known_noise(sys.argv[1] == "driver"), 0, 1)
