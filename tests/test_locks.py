"""Who may write is settled by a lock that ends with its holder; what a live process writes is not swept."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import windows_locks
from windows_locks import WindowsPath

from ovseg import files, locks
from ovseg.files import remove_dead, sync_file, write_atomically
from ovseg.run.launch import Shard
from ovseg.run.writers import check_free, writing

HOLDER = """
import sys, time
from pathlib import Path
from ovseg import locks
with locks.held(Path(sys.argv[1]), "taken"):
    print("held", flush=True)
    time.sleep(60)
"""
AS_WINDOWS = (
    f"sys.path.insert(0, {str(Path(__file__).parent)!r}); import windows_locks; locks = windows_locks.as_windows()"
)
ROOT = Path(__file__).parent.parent


def test_on_windows_a_lock_is_one_processs_until_it_dies(tmp_path: Path) -> None:
    """By a stand-in for its locks: as flock's, but of one opening, and of a file that cannot be removed while open."""
    windows, lock = windows_locks.as_windows(), WindowsPath(tmp_path / "new/.run.json.lock")
    with holder(lock, HOLDER.replace("from ovseg import locks", AS_WINDOWS)) as process:
        assert windows.is_held(lock) and lock.exists()
        with pytest.raises(windows.Taken, match="^theirs$"), windows.held(lock, "theirs"):
            pytest.fail("two held it")
        assert lock.exists()  # a loser leaves it alone
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert lock.exists() and not windows.is_held(lock)
        with windows.held(lock, "mine") as locked:
            assert locked and windows.is_held(lock)
            with pytest.raises(windows.Taken), windows.held(lock, "mine"):
                pytest.fail("this process holds it twice")
            assert windows.is_held(lock)
    assert list(lock.parent.iterdir()) == [] and not windows_locks.opened and not windows.is_held(lock)


def test_on_windows_a_lock_that_is_still_open_elsewhere_stays_and_means_nothing(tmp_path: Path) -> None:
    windows, lock = windows_locks.as_windows(), WindowsPath(tmp_path / "lock")
    with windows.held(lock, ""):
        looking = windows_locks.open_file(lock, os.O_RDWR)  # one who asks whether it is held
    assert lock.exists() and not windows.is_held(lock)
    windows_locks.close_file(looking)
    with windows.held(lock, ""):
        pass
    assert not lock.exists()


def test_on_windows_what_is_written_is_seen_to_live_and_is_not_swept(tmp_path: Path, monkeypatch) -> None:
    windows, temporary = windows_locks.as_windows(), tmp_path / f".a.{os.getpid()}.tmp"
    seen: list[bool] = []

    def fsync(descriptor: int) -> None:
        remove_dead(temporary)
        seen.append(temporary.exists())

    monkeypatch.setattr(files, "locks", windows)
    monkeypatch.setattr(files, "os", types.SimpleNamespace(**{**vars(os), "name": "nt", "fsync": fsync}))
    write_atomically(tmp_path / "a", b"whole")
    windows_locks.locked.clear()  # the stand-in sees closing by its own function alone
    assert seen == [True] and (tmp_path / "a").read_bytes() == b"whole" and len(list(tmp_path.iterdir())) == 1
    temporary.touch()
    remove_dead(temporary)
    assert not temporary.exists()


def test_on_windows_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch) -> None:
    def none(descriptor: int, mode: int, count: int) -> None:
        raise OSError(errno.EINVAL, "no locks")

    windows = windows_locks.as_windows()
    monkeypatch.setattr(windows.msvcrt, "locking", none)
    with windows.held(WindowsPath(tmp_path / "lock"), "") as locked:
        assert locked is False and not windows.is_held(tmp_path / "lock")
    assert list(tmp_path.iterdir()) == []


@contextmanager
def holder(lock: Path, script: str = HOLDER) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a lock until it is killed."""
    with subprocess.Popen([sys.executable, "-c", script, str(lock)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_lock_is_one_processs_until_it_dies_however(tmp_path: Path) -> None:
    lock = tmp_path / "new/.run.json.lock"
    with holder(lock) as process:
        assert locks.is_held(lock)
        with pytest.raises(locks.Taken, match="^theirs$"), locks.held(lock, "theirs"):
            pytest.fail("two held it")
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert lock.exists() and not locks.is_held(lock)  # the file alone means nothing
        with locks.held(lock, "mine") as locked:
            assert locked and locks.is_held(lock)
    assert list(lock.parent.iterdir()) == []


def test_many_threads_hold_a_lock_one_after_the_other(tmp_path: Path) -> None:
    holding, most, taken = [0], [0], [0]

    def work() -> None:
        for _ in range(200):
            try:
                with locks.held(tmp_path / "lock", ""):
                    holding[0] += 1
                    most[0] = max(most[0], holding[0])
                    taken[0] += 1
                    holding[0] -= 1
            except locks.Taken:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1 and taken[0] > 50 and not (tmp_path / "lock").exists()


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def none(descriptor: int, *, shared: bool = False) -> bool:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(locks, "_try", none)
    with writing(tmp_path / "out", None):
        pass
    assert "its file system has no locks" in capsys.readouterr().err
    write_atomically(tmp_path / "a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"


def test_a_run_has_one_writer_and_shards_one_each(tmp_path: Path) -> None:
    def refused(shard: Shard | None) -> str:
        with pytest.raises(ValueError, match="another process is writing this run") as caught:
            check_free(tmp_path, shard)
        with pytest.raises(ValueError) as again, writing(tmp_path, shard):
            pytest.fail("two write")
        assert str(again.value) == str(caught.value)
        return str(caught.value)

    with writing(tmp_path, Shard(1, 2)), writing(tmp_path, Shard(2, 2)):
        assert "run-1-of-2.json: " in refused(Shard(1, 2)) and "run-2-of-2.json: " in refused(Shard(2, 2))
        assert "-of-2.json: " in refused(None) and "-of-2.json: " in refused(Shard(1, 3))
    with writing(tmp_path, None):
        assert "run.json: " in refused(None) and "run.json: " in refused(Shard(1, 2))
    check_free(tmp_path, None)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_made_for_a_run_that_does_not_begin_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="settings"), writing(tmp_path / "out", None):
        raise ValueError("settings")
    assert not (tmp_path / "out").exists()


def test_what_a_live_process_writes_is_not_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of before: a sweep of the same names, by another process, in the middle of writing."""
    temporary = tmp_path / f".a.png.{os.getpid()}.tmp"
    seen: list[bool] = []
    replace = os.replace

    def sweeping(source: Path, target: Path) -> None:
        subprocess.run([sys.executable, "-c", SWEEPER, str(temporary)], check=True)
        seen.append(temporary.exists())
        replace(source, target)

    monkeypatch.setattr(os, "replace", sweeping)
    write_atomically(tmp_path / "a.png", b"whole")
    assert seen == [True] and (tmp_path / "a.png").read_bytes() == b"whole"
    temporary.touch()
    remove_dead(temporary)
    assert not temporary.exists()


SWEEPER = "import sys; from pathlib import Path; from ovseg.files import remove_dead; remove_dead(Path(sys.argv[1]))"


def test_a_file_that_was_taken_before_it_was_locked_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def keep(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:  # a sweep comes just before
            (tmp_path / f".a.{os.getpid()}.tmp").unlink()

    monkeypatch.setattr(locks, "keep", keep)
    write_atomically(tmp_path / "a", b"whole")
    assert len(calls) == 2 and (tmp_path / "a").read_bytes() == b"whole" and len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    for call in (lambda: write_atomically(tmp_path / "a.png", b"x"), lambda: sync_file(tmp_path / "b.png")):
        (tmp_path / "b.png").touch()
        with pytest.raises(OSError, match=r"No space left on device: '.*[ab]\.png'"):
            call()
    assert [path.name for path in tmp_path.iterdir()] == ["b.png"]
