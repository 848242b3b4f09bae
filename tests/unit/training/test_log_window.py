from __future__ import annotations

import json

from raysem.training.log_window import LogWindow


def test_a_window_has_the_means_of_its_steps_and_then_begins_anew():
    window = LogWindow()
    window.add({"loss": 1.0, "norm": 4.0})
    window.add({"loss": 3.0, "norm": 0.0})
    assert window.take()[0] == {"loss": 2.0, "norm": 2.0}
    window.add({"loss": 5.0})
    assert window.take()[0] == {"loss": 5.0}


def test_a_resumed_window_has_the_sums_of_before_and_the_speed_of_its_own_steps():
    before, after = LogWindow(), LogWindow()
    before.add({"loss": 1.0})
    after.load(json.loads(json.dumps(before.state())))
    assert after.take() == ({"loss": 1.0}, 0.0)  # no step of its own yet
