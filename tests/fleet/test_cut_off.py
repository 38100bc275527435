"""Workers on machines of their own, as the network sees them: one is cut off, and joined again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="mempool[dask] is not installed")


def why_not() -> str:
    """Why no network can be made here; "": it can."""
    for program in ("unshare", "ip"):
        if shutil.which(program) is None:
            return f"there is no {program} (Debian: apt-get install util-linux iproute2)"
    attempt = "ip link add bridge type bridge && ip link add cable type veth peer name eth0"
    done = subprocess.run(["unshare", "--net", "sh", "-c", attempt], capture_output=True, text=True, timeout=30, check=False)
    return f"no network namespaces: {done.stderr.strip()}" if done.returncode else ""


@pytest.mark.long
@pytest.mark.once
@pytest.mark.timeout(240)
def test_a_worker_that_is_cut_off_and_joined_again_has_the_latest_and_takes_no_step_back(tmp_path: Path) -> None:
    """For a moment, with its connection alive; and for so long that the scheduler has given it up, and it begins anew."""
    if why := why_not():
        pytest.skip(why)
    script = Path(__file__).with_name("cut_off.py")
    command = ["unshare", "--net", sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=220, check=False)
    logs = "".join(path.read_text(errors="replace") for path in tmp_path.glob("*/log"))
    assert done.returncode == 0, done.stdout + done.stderr[-6000:] + logs[-4000:]
    print(done.stdout)
    assert done.stdout.endswith("no step back on either\n")
