"""The server and the reference agree, whatever is done in whatever order."""

import hypothesis
import pytest
import redis
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Machine

#: Of a failure the smallest example is looked for, which takes minutes.
pytestmark = pytest.mark.timeout(
    0 if hypothesis.settings.get_current_profile_name() == "soak" else 1800
)


@pytest.mark.slow
def test_model(client: redis.Redis, budget: hypothesis.settings, seed: int) -> None:
    """Seeds are printed: PYQUEUE_MODEL_SEED repeats a run, PYQUEUE_MODEL_EXAMPLES prolongs it."""

    class Bound(Machine):
        def __init__(self) -> None:
            super().__init__(client)

    run_state_machine_as_test(hypothesis.seed(seed)(Bound), settings=budget)
