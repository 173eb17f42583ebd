"""A kernel that refuses flock, as it does on network disks without a lock service."""
import ctypes
import errno
import struct

FLOCK = 73  # the number of the system call on x86-64
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, FILTER = 22, 38, 2
ALLOW, FAIL = 0x7FFF0000, 0x00050000


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def refuse_flock():
    """Let flock fail with ENOLCK in this process and its children; for Popen's preexec_fn."""
    instructions = [
        (0x20, 0, 0, 0),  # load the number of the system call
        (0x15, 0, 1, FLOCK),  # go on if it is this one, else leave the next out
        (0x06, 0, 0, FAIL | errno.ENOLCK),
        (0x06, 0, 0, ALLOW),
    ]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    program = Program(len(instructions), code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, FILTER, ctypes.byref(program)
    ):
        raise OSError(ctypes.get_errno(), "no filter of system calls")
