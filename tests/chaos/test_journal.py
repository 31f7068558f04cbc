from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.chaos.journal import Entry, Journal, JournalReader

ROOT = Path(__file__).parents[2]

KILLED = """
import os, signal, sys
from pathlib import Path
from tests.chaos.journal import Journal
journal = Journal(Path(sys.argv[1]), "worker")
for number in range(1000):
    journal.write("start", f"t{number}", 0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def entries(folder: Path) -> list[Entry]:
    return list(JournalReader(folder).news())


def test_entry_comes_back_as_it_was_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "worker")
    journal.write("end", "t1", "0 ok")
    journal.write("fault", extra="sigkill", pid=77)
    end, fault = entries(tmp_path)
    assert (end.kind, end.task_id, end.pid, end.extra) == ("end", "t1", os.getpid(), "0 ok")
    assert (fault.kind, fault.task_id, fault.pid, fault.extra) == ("fault", "-", 77, "sigkill")
    assert 0 <= fault.at - end.at < 10**9


def test_text_of_an_error_stays_in_its_line(tmp_path: Path) -> None:
    Journal(tmp_path, "worker").write("note", extra="one\ntwo\n three")
    assert [entry.extra for entry in entries(tmp_path)] == ["one two three"]


def test_journal_of_a_killed_process_is_complete(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert [entry.task_id for entry in entries(tmp_path)] == [f"t{n}" for n in range(1000)]


def test_reader_reads_each_line_once_and_waits_for_the_rest_of_one(tmp_path: Path) -> None:
    reader, path = JournalReader(tmp_path), tmp_path / "worker-1.journal"
    path.write_bytes(b"1 acked t1 1 \n2 acked t2")
    assert [entry.task_id for entry in reader.news()] == ["t1"]
    assert list(reader.news()) == []
    path.write_bytes(b"1 acked t1 1 \n2 acked t2 1 \n")
    assert [entry.task_id for entry in reader.news()] == ["t2"]
