"""What has its name is on the disk: a power cut after a save leaves it whole."""
import os

import pytest

from projects.MAE.checkpoint.run_folder import checkpoint_to_resume
from projects.MAE.utils.disk import check_writable
from tests.support.checkpoints import trained


@pytest.fixture
def seen(monkeypatch):
    """[(what, path)] of every fsync and rename of this process, in their order."""
    events = []
    fsync, rename = os.fsync, os.rename

    def watch_fsync(handle):
        events.append(("fsync", os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def watch_rename(old, new):
        inside = [os.path.join(r, n) for r, _, names in os.walk(old) for n in ("", *names)]
        events.append(("rename", str(new), {path.rstrip("/") for path in inside} or {str(old)}))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(os, "rename", watch_rename)
    monkeypatch.setattr(os, "replace", watch_rename)
    return events


def assert_safe(events, name):
    """Before the rename to `name` everything in it was flushed, and its folder after that."""
    (place,) = [i for i, e in enumerate(events) if e[0] == "rename" and e[1].endswith(f"/{name}")]
    _, target, content = events[place]
    flushed = {event[1] for event in events[:place] if event[0] == "fsync"}
    assert content - flushed == set()
    later = {event[1] for event in events[place:] if event[0] == "fsync"}
    assert os.path.dirname(target) in later


@pytest.mark.parametrize("graph_mode", [True, False])
def test_a_checkpoint_is_on_the_disk_when_it_has_its_name(tmp_path, seen, graph_mode):
    checkpointer = trained(tmp_path, graph_mode)
    checkpointer.save("model_0000000", iteration=1)
    assert_safe(seen, "model_0000000")
    files = seen[[e[0] for e in seen].index("rename")][2]
    assert sum(path.endswith("/out") for path in files) > 20  # its tensors are among them
    del seen[:]
    checkpointer.save("model_0000000", iteration=1)  # over the one that is there
    assert_safe(seen, "model_0000000")


def test_the_name_of_the_newest_is_on_the_disk(tmp_path, seen):
    trained(tmp_path, False, steps=0).tag_last_checkpoint("model_0000000")
    assert_safe(seen, "last_checkpoint")


def test_the_second_name_of_the_best_one_is_on_the_disk(tmp_path, seen):
    trained(tmp_path, False, steps=0).save("model_best", iteration=3)
    del seen[:]
    assert checkpoint_to_resume(tmp_path) == "model_0000002"
    assert_safe(seen, "model_0000002")
    assert_safe(seen, "last_checkpoint")


def test_a_new_output_folder_is_on_the_disk(tmp_path, seen):
    check_writable(tmp_path / "new" / "run")
    assert {str(tmp_path), str(tmp_path / "new")} <= {e[1] for e in seen if e[0] == "fsync"}
