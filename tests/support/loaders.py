"""The processes of a run that read its images."""
from tests.support.started_run import processes_of


def _status(pid):
    """(command line, number of the parent) of a process, or of none ("", 0)."""
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            command = file.read()
        with open(f"/proc/{pid}/stat") as file:
            return command, int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return "", 0  # it ended meanwhile


def _is_server(pid):
    return "multiprocessing.forkserver" in _status(pid)[0] and not _is_child_of_server(pid)


def _is_child_of_server(pid):
    return "multiprocessing.forkserver" in _status(_status(pid)[1])[0]


def workers_of(marker):
    """Ids of a run's loader workers: children of its fork servers."""
    return sorted(filter(_is_child_of_server, processes_of(marker)))


def fork_servers_of(marker):
    """Ids of a run's fork servers, from which the loader workers of a rank come."""
    return sorted(filter(_is_server, processes_of(marker)))
