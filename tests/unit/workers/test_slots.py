"""How many builds run at a time."""

import threading

from shipway.workers.slots import Slots


def test_no_more_at_once_than_slots() -> None:
    """Ten hints at once run all that waits, two at a time."""
    waiting, running, most, lock = list(range(20)), [0], [0], threading.Lock()

    def step() -> bool:
        with lock:
            if not waiting:
                return False
            waiting.pop()
            running[0] += 1
            most[0] = max(most[0], running[0])
        threading.Event().wait(0.005)
        with lock:
            running[0] -= 1
        return True

    slots = Slots(2)
    threads = [threading.Thread(target=slots.work_off, args=(step,)) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert waiting == []
    assert most[0] == 2


def test_a_hint_that_finds_no_slot_is_not_lost() -> None:
    """What is added while the only slot's holder finds nothing more is still done by it."""
    slots, waiting, done = Slots(1), ["first"], []

    def step() -> bool:
        if not waiting:
            if done == ["first"]:
                waiting.append("second")
                other = threading.Thread(target=slots.work_off, args=(step,))
                other.start()
                other.join()
            return False
        done.append(waiting.pop())
        return True

    slots.work_off(step)
    assert done == ["first", "second"]
