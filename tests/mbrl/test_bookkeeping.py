"""What a run costs: processor time goes on over a resume, and evaluations are not in it."""

import math
import time

from mbrl.pipelines.bookkeeping import Bookkeeping, Counters
from mbrl.pipelines.recorder import NullRecorder


class Shelf(NullRecorder):
    """Keeps the newest checkpoint."""

    kept = None

    def save(self, steps, tensors, meta):
        self.kept = tensors, meta

    def load(self):
        return self.kept


def books(recorder):
    return Bookkeeping(Counters(), seed=0, columns={}, parts={}, settings={}, recorder=recorder)


def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_evaluations_cost_a_run_no_processor_time():
    kept = books(Shelf())
    kept.begin()
    with kept.uncounted():
        burn(0.3)
    assert kept.cpu_seconds() < 0.1
    assert kept.seconds() > 0.2  # of wall-clock they do
    burn(0.2)
    assert 0.2 <= kept.x()["time/cpu_seconds"] < 0.3


def test_processor_time_goes_on_over_a_resume():
    shelf = Shelf()
    before = books(shelf)
    before.begin()
    burn(0.2)
    before.save(1)
    after = books(shelf)
    after.restore()
    after.begin()
    assert 0.2 <= after.cpu_seconds() < 0.3


def test_a_checkpoint_that_does_not_know_it_leaves_it_unknown():
    shelf = Shelf()
    books(shelf).save(1)
    del shelf.kept[1]["counters"]["cpu_seconds"]
    after = books(shelf)
    after.restore()
    assert math.isnan(after.cpu_seconds())
