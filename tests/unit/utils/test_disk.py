"""A file that is replaced whole: whoever looks, and whenever, finds the old one or the new one."""
import os
import shutil
import tempfile

import pytest

from projects.MAE.utils.disk import check_writable, replaced


def test_the_old_file_is_there_until_the_new_one_is(tmp_path):
    path = tmp_path / "file"
    for content in ("one", "two"):
        before = path.read_text() if path.exists() else None
        with replaced(path) as beside:
            assert os.path.dirname(beside) == str(tmp_path)
            with open(beside, "w") as file:
                file.write(content)
            assert (path.read_text() if path.exists() else None) == before
        assert path.read_text() == content and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("made", [False, True])
def test_an_exception_leaves_the_old_file_alone(tmp_path, made):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replaced(path) as beside:
        if made:
            with open(beside, "w") as file:
                file.write("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_a_file_that_cannot_get_its_name(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError), replaced(tmp_path / "file") as beside:
        open(beside, "w").close()
    assert os.listdir(tmp_path) == ["file"]


def test_processes_that_replace_one_file_do_not_share_the_new_one(tmp_path):
    path = tmp_path / "file"
    with replaced(path) as first, replaced(path) as second:
        assert first != second
        for beside in (first, second):
            with open(beside, "w") as file:
                file.write(beside)
    assert path.read_text() == first and os.listdir(tmp_path) == ["file"]


def test_a_name_of_ones_own_is_written_over(tmp_path):
    (tmp_path / "mine").write_text("left by a process that was killed")
    with replaced(tmp_path / "file", tmp_path / "mine") as beside:
        with open(beside, "w") as file:
            file.write("new")
    assert (tmp_path / "file").read_text() == "new" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["file", os.path.join("folder", "file")])
def test_the_disk_has_the_content_before_the_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    os.mkdir("folder")
    happened, fsync, rename = [], os.fsync, os.rename

    def sending(handle):
        happened.append(os.path.relpath(os.readlink(f"/proc/self/fd/{handle}"), tmp_path))
        happened.append(os.fstat(handle).st_size)
        fsync(handle)

    def renaming(old, new):
        happened.append("renamed")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", sending)
    monkeypatch.setattr(os, "rename", renaming)
    with replaced(name) as beside:
        with open(beside, "w") as file:
            file.write("seven b")
    assert happened[:-1] == [beside, 7, "renamed", os.path.dirname(name) or "."]


def test_a_new_folder_in_one_that_may_be_written_to_but_not_read():
    drop_box = tempfile.mkdtemp(dir="/tmp")  # where other users get to
    os.chmod(drop_box, 0o333)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)  # root reads everything
        check_writable(os.path.join(drop_box, "new", "run"))
    finally:
        os.seteuid(user)
        assert os.path.isdir(os.path.join(drop_box, "new", "run"))
        os.chmod(drop_box, 0o700)
        shutil.rmtree(drop_box)
