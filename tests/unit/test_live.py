"""A scan under way, in memory."""

import msgspec
import trio

from clamscannerd.model import Counts, EngineInfo, Scan, ScanState
from clamscannerd.state.live import LiveScan

SCAN = Scan(
    id=1,
    uid=1000,
    name="anna",
    scan_type="home",
    paths=(b".",),
    state=ScanState.RUNNING,
    asked_by=1000,
    asked_at=1.0,
    started_at=1.0,
    ended_at=None,
    resumed=0,
    counts=Counts(),
    engine=EngineInfo(version="1.4.6", max_file_size=100),
    message="",
)


def test_the_limit_that_is_told_is_one_that_each_file_left_out_was_over() -> None:
    live = LiveScan(SCAN, trio.Event())
    for size, told in ((200, 100), (50, 50), (0, 50), (100, 50)):
        live.engine(EngineInfo(version="1.5.0", max_file_size=size))
        assert live.scan.engine == EngineInfo(version="1.5.0", max_file_size=told)
    live.restart(msgspec.structs.replace(SCAN, engine=EngineInfo(max_file_size=300)), [])
    assert live.scan.engine.max_file_size == 300
