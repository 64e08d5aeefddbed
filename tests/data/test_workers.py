"""Jobs give the same results in one process and in several, and workers do not outlive the run that was killed."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tqdm.auto import tqdm

from hf_moshi_ttt.data.workers import run_jobs


@pytest.mark.parametrize("num_proc", [1, 2])
def test_every_job_runs_once_and_moves_the_bar(num_proc: int) -> None:
    with tqdm(total=4, disable=False, file=io.StringIO()) as bar:
        results = sorted(run_jobs(pow, [(number, 2) for number in range(4)], num_proc, bar))
        assert (results, bar.n) == ([0, 1, 4, 9], 4)


def test_an_error_in_a_job_is_raised() -> None:
    for num_proc in (1, 2):
        with pytest.raises(ZeroDivisionError):
            list(run_jobs(divmod, [(1, 1), (1, 0)], num_proc, tqdm(disable=True)))


def test_less_than_one_process_is_refused() -> None:
    with pytest.raises(ValueError, match="num_proc is 0, but at least 1 process is needed"):
        list(run_jobs(pow, [(1, 1)], 0, tqdm(disable=True)))


def test_workers_end_with_a_killed_run(tmp_path: Path) -> None:
    program = (
        "import os, time\nfrom pathlib import Path\nfrom tqdm import tqdm\n"
        "from hf_moshi_ttt.data.workers import run_jobs\n"
        f"def job(name):\n    Path({str(tmp_path)!r}, name).write_text(str(os.getpid()))\n    time.sleep(60)\n"
        "if __name__ == '__main__':\n    list(run_jobs(job, [('a',), ('b',)], 2, tqdm(disable=True)))\n"
    )
    (tmp_path / "run.py").write_text(program)
    run = subprocess.Popen([sys.executable, str(tmp_path / "run.py")])
    wait_until(lambda: all((tmp_path / name).is_file() for name in "ab"))
    run.send_signal(signal.SIGKILL)
    run.wait()
    workers = [int((tmp_path / name).read_text()) for name in "ab"]
    wait_until(lambda: not any(is_running(worker) for worker in workers))


def test_workers_say_nothing_after_ctrl_c(tmp_path: Path) -> None:
    """It goes to all processes of a terminal; the one that started the workers says what there is to say."""
    program = (
        "import signal\nimport time\nfrom pathlib import Path\nfrom tqdm import tqdm\n"
        "from hf_moshi_ttt.data.workers import run_jobs\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs lack\n"
        f"def job(name):\n    Path({str(tmp_path)!r}, name).touch()\n    time.sleep(60)\n"
        "if __name__ == '__main__':\n    try:\n"
        "        list(run_jobs(job, [('a',), ('b',)], 2, tqdm(disable=True)))\n"
        "    except KeyboardInterrupt:\n        print('interrupted')\n"
    )
    (tmp_path / "run.py").write_text(program)
    command, pipe = [sys.executable, str(tmp_path / "run.py")], subprocess.PIPE
    run = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    wait_until(lambda: all((tmp_path / name).is_file() for name in "ab"))
    os.killpg(run.pid, signal.SIGINT)
    assert run.communicate(timeout=60) == ("interrupted\n", "")


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.is_file() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def wait_until(condition: object) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
