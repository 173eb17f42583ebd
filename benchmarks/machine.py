"""What a measurement was made on: processor, system and this project's revision."""
import os
import platform
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def cores():
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def processor():
    """The processor's name and the cores in use."""
    with open("/proc/cpuinfo") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()


def memory_gb():
    """Main memory in GiB."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def revision(folder=ROOT):
    """The git revision of a checkout, with "+changes" where files differ from it; or None."""
    git = ["git", "-C", folder]
    done = subprocess.run(git + ["rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if done.returncode:
        return None
    status = git + ["status", "--porcelain", "--untracked-files=no"]
    changed = subprocess.run(status, capture_output=True, text=True).stdout
    return done.stdout.strip() + ("+changes" if changed else "")


def facts():
    """What every row of the results says of the machine and the project."""
    return dict(
        processor=processor(),
        cores=cores(),
        memory_gb=memory_gb(),
        system=platform.platform(),
        revision=revision(),
        date=time.strftime("%Y-%m-%d"),
    )
