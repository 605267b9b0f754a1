"""The time that a load still takes, by what is loaded so far."""

from glm_edge.worker.load_progress import LoadProgress


def test_time_left_is_that_of_the_rest_and_a_new_load_begins_again() -> None:
    now = 100.0
    progress = LoadProgress(lambda: now)
    assert progress.left_s() is None
    progress.report(0.0)
    now += 3
    progress.report(0.25)
    assert progress.left_s() == 9
    now += 9
    progress.report(1.0)
    assert progress.left_s() == 0
    now += 50
    progress.report(0.0)
    assert progress.left_s() is None
    now += 2
    progress.report(0.5)
    assert progress.left_s() == 2
