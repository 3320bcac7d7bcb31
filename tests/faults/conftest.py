"""The modules beside the tests that assert."""

import pytest

for module in ("replays", "histories"):
    pytest.register_assert_rewrite(f"tests.faults.{module}")
