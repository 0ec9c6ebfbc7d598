"""How many files each scan may have at the engine."""

import pytest

from clamscannerd.pipeline.shares import Shares


@pytest.mark.parametrize(
    ("budget", "scans", "share"),
    [(10, 1, 10), (10, 3, 3), (2, 3, 1), (1_000, 1, 64), (1_000, 10, 64), (1_000, 100, 10)],
)
def test_a_share_is_even_at_least_one_and_within_a_workers_fds(budget: int, scans: int, share: int) -> None:
    shares = Shares(lambda: budget)
    for _ in range(scans):
        shares.join()
    assert shares.share() == share
