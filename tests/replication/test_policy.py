"""The policy takes no value that it could not read back."""

from __future__ import annotations

from math import inf, nan

import pytest

from replkit.contracts.registry import default_registry
from replkit.errors import InvalidArgumentError
from replkit.replication.policy import Policy, change_policy, load_policy


@pytest.mark.requirement("D2")
@pytest.mark.parametrize("field", ["interval_s", "play_interval_s", "retry_s", "slow_retry_s"])
@pytest.mark.parametrize("value", [inf, nan, -1.0])
def test_a_time_that_json_cannot_hold_is_refused_and_the_policy_stays_readable(field: str, value: float) -> None:
    save = default_registry().open_save_volume(f"memory:policy-{field}-{value}", capacity_bytes=1 << 20, create=True)
    with save:
        with pytest.raises(InvalidArgumentError, match=field):
            change_policy(save, **{field: value})
        assert load_policy(save) == Policy()
