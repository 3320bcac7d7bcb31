"""How much the model tests try: ``make soak`` has the profile ``soak``."""

import os
import random

import pytest
from hypothesis import HealthCheck, Phase, settings

for module in ("machine", "reference", "invariants"):
    pytest.register_assert_rewrite(f"tests.model.{module}")

#: Examples for each server. The usual number takes half a minute on each.
EXAMPLES = {"soak": 50_000}
DEFAULT_EXAMPLES = 150


@pytest.fixture
def budget() -> settings:
    """What a run of the machine may cost; PYQUEUE_MODEL_EXAMPLES overrides it."""
    usual = EXAMPLES.get(settings.get_current_profile_name(), DEFAULT_EXAMPLES)
    return settings(
        max_examples=int(os.environ.get("PYQUEUE_MODEL_EXAMPLES", usual)),
        stateful_step_count=50,
        deadline=None,
        derandomize=False,
        print_blob=True,
        report_multiple_bugs=False,
        # All but `explain`, which takes longer than the rest.
        phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture
def seed() -> int:
    """Printed, and so shown when the test fails; PYQUEUE_MODEL_SEED repeats a run."""
    chosen = int(os.environ.get("PYQUEUE_MODEL_SEED", random.getrandbits(32)))
    print(f"PYQUEUE_MODEL_SEED={chosen}")
    return chosen
