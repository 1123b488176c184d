"""What is said of the run that trained a model."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from mmmed.inference.run_facts import at_most


@given(st.floats(0, 1e6))
def test_an_epsilon_is_never_printed_below_what_it_is(epsilon: float) -> None:
    assert epsilon <= float(at_most(epsilon)) <= epsilon + 0.0011
    assert at_most(8.0) == "8" and at_most(8.0004) == "8.001" and at_most(math.inf) == "infinity"
