"""A run that hangs ends by itself, and says which rank stands where.

1. The training thread of every rank notes where it is (`Watchdog.at`); that is all it ever does here.
2. A thread of every rank puts beats into the key-value store of the process group, over a connection of its own: a
   number that grows while the process lives, and the place.
3. Rank 0 reads the beats of all ranks, the others that of rank 0 and the verdict. Time is the reader's own clock: how
   long ago a beat was new to it, so clocks need not agree.
4. A verdict falls when no rank has moved, or one has given no beat, for `stall_seconds`. Who reaches it puts it into
   the store and says it; every rank writes its stacks and ends, also from within a collective that never returns.
"""

import contextlib
import faulthandler
import os
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from train.dist.collectives import World
from train.liveness.exit_status import AGAIN
from train.liveness.heartbeats import LEAVING, Answer, Beat, Post

WAITING = frozenset({"reducing", "waiting"})
"""The places where a rank waits for others: one that stands here is not what the others wait for."""

MAX_SECONDS_A_BEAT = 5.0

GONE = "see whether its process is stopped or its host gone"
ADVICE = {
    "reading": "look at the storage of the data",
    "saving": "look at the storage of the run's folder",
    LEAVING: "look for its error above",
    **dict.fromkeys(WAITING, "no rank is at work: look at the network between the hosts"),
}


class Sight:
    """A rank as another one sees it: its last beat, and when that was new and had moved, by the reader's clock."""

    def __init__(self, rank: int, now: float) -> None:
        self.rank = rank
        self.beat: Beat | None = None
        self.new_at = self.moved_at = now

    def take(self, beat: Beat, now: float) -> None:
        """Compares with the last one."""
        last, self.beat = self.beat, beat
        if last is None or beat.number != last.number:
            self.new_at = now
        if last is None or (beat.where, beat.step, beat.calls) != (last.where, last.step, last.calls):
            self.moved_at = now

    def __str__(self) -> str:
        return f"rank {self.rank}" + (f" ({self.beat.host}, pid {self.beat.pid})" if self.beat else "")


def judge(sights: Sequence[Sight], now: float, stall_seconds: float, seconds_a_beat: float) -> str:
    """What is wrong with the ranks seen, at the time of the last answer; "" while nothing is.

    A rank that was stopped is named even where it waited: the others stand because of it. Of the others, those that do
    not wait for others are named, and of these the furthest behind.
    """
    present = [sight for sight in sights if not (sight.beat and sight.beat.left)]
    still = bool(present) and now - max(sight.moved_at for sight in sights) > stall_seconds
    limit = min(stall_seconds, 4 * seconds_a_beat) if still else stall_seconds
    if silent := [sight for sight in present if now - sight.new_at > limit]:
        beat, seconds = silent[0].beat, now - silent[0].new_at
        seen = f"last seen in '{beat.where}' at step {beat.step}" if beat else "since the start"
        return f"{_names(silent)} given no beat for {seconds:.0f} s, {seen}; {GONE}"
    if not still:
        return ""
    beats = {sight: sight.beat for sight in sights if sight.beat}
    working = [sight for sight, beat in beats.items() if beat.where not in WAITING] or list(beats)
    behind = min((beats[sight].step, beats[sight].calls) for sight in working)
    named = [sight for sight in working if (beats[sight].step, beats[sight].calls) == behind]
    where, seconds = beats[named[0]].where, now - named[0].moved_at
    advice = ADVICE.get(where, "look at its stacks")
    return f"{_names(named)} stood in '{where}' at step {behind[0]} for {seconds:.0f} s; {advice}"


def _names(sights: Sequence[Sight]) -> str:
    if len(sights) == 1:
        return f"{sights[0]} has"
    more = ", ".join(str(sight.rank) for sight in sights[1:9]) + (" ..." if len(sights) > 9 else "")
    return f"{sights[0]} and {len(sights) - 1} more ({more}) have"


class Watchdog:
    """Watches this rank and, through the store, the others. With 0 seconds it watches nothing."""

    def __init__(self, world: World, folder: Path, stall_seconds: float) -> None:
        """After the process group was joined. From here on each rank has to call `at` within `stall_seconds`.

        `folder` is the run's and exists; stacks go into its folder `stacks`, one file a rank.
        """
        self.world, self.folder, self.stall_seconds = world, folder, stall_seconds
        self.seconds_a_beat = min(stall_seconds / 10, MAX_SECONDS_A_BEAT)
        self._place: tuple[str, int, int] = ("starting", 0, 0)
        self._ending = False
        self._closed = threading.Event()
        self._sights = [Sight(rank, time.monotonic()) for rank in range(world.size if world.first else 1)]
        self._threads = [threading.Thread(target=self._watch, name="watchdog", daemon=True)]
        if world.size > 1:
            self._post = Post(world, self.seconds_a_beat, self._beat)
            send = threading.Thread(target=self._post.exchange_beats, args=(self._closed,), name="beats", daemon=True)
            self._threads.append(send)
        for thread in self._threads if stall_seconds else []:
            thread.start()

    def at(self, where: str, step: int) -> None:
        """Notes that the training thread has come to a place: progress. It costs a tuple; for every micro-batch.

        A rank that works for long while others wait calls it again and again. See WAITING for the places to wait in.
        """
        _, last_step, calls = self._place
        self._place = (where, step, calls + 1 if step == last_step else 0)

    def close(self) -> None:
        """This rank leaves: it watches no longer and is not waited for. In a `finally`, before the process group ends.

        Waits for its threads, a few beats at most: one inside the store's library would abort the interpreter's end.
        After a verdict it does not return: the lost connection that the training thread met came of the others' end.
        """
        if not self.stall_seconds:
            return
        _, step, calls = self._place
        self._place = (LEAVING, step, calls)
        self._closed.set()
        for thread in self._threads:
            thread.join(2 * self.seconds_a_beat + 1)
        self.hold_after_verdict()

    def hold_after_verdict(self) -> None:
        """Does not return once a verdict has fallen: the process ends from within the watchdog."""
        if self._ending:
            threading.Event().wait()

    def _beat(self, number: int) -> Beat:
        return Beat(number, *self._place, socket.gethostname(), os.getpid())

    def _watch(self) -> None:
        looked_at = moved_at = time.monotonic()
        place = self._place
        while not self._closed.wait(self.seconds_a_beat):
            now = time.monotonic()
            if now - looked_at > 5 * self.seconds_a_beat:  # this process itself was stopped, as by Ctrl-Z
                moved_at = now
                for sight in self._sights:
                    sight.new_at = sight.moved_at = now
            looked_at = now
            if self._place != place:
                moved_at, place = now, self._place
            answer = self._post.answer if self.world.size > 1 else Answer(now, [self._beat(int(now * 1000))])
            if answer.verdict:
                self._end(answer.verdict, says=False)
            # Without an answer, a rank that moves shows that only the store is in trouble.
            if now - max(answer.at, moved_at) > self.stall_seconds:
                self._end(self._no_answer(now - answer.at), says=self.world.rank == 1 or self.world.local_rank == 0)
            if self._look(answer):
                return

    def _look(self, answer: Answer) -> bool:
        """Ends the process if it finds the run stalled; True if rank 0, which judges, has left."""
        for sight, beat in zip(self._sights, answer.beats, strict=False):  # none before the first answer
            if beat:
                sight.take(beat, answer.at)
        rank_0 = self._sights[0]
        if not self.world.first and rank_0.beat and rank_0.beat.left:
            return True
        # Rank 0 judges all; the others only see to it that rank 0 lives: it may stand because it waits for one of them.
        if self.world.first or answer.at - rank_0.new_at > self.stall_seconds:
            if verdict := judge(self._sights, answer.at, self.stall_seconds, self.seconds_a_beat):
                self._end(verdict, says=self.world.size == 1 or self._post.declare(verdict))
        return False

    def _no_answer(self, seconds: float) -> str:
        store = f"the store at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        return f"{self._sights[0]} does not answer, {store} not for {seconds:.0f} s; {GONE}"

    def _end(self, verdict: str, says: bool) -> None:
        self._ending = True
        lingers = 2 * self.seconds_a_beat + 1 if self.world.size > 1 else 0.0
        # The file system may be what hangs: then this ends the process from outside Python, its stacks on stderr.
        faulthandler.dump_traceback_later(lingers + 10, exit=True)
        stacks = self.folder / "stacks"
        if says:
            said = f"{verdict}; stacks of all ranks are in {stacks}/; the same command goes on from the last save"
            with contextlib.suppress(OSError):
                os.write(2, f"watchdog: {said}\n".encode())
        with contextlib.suppress(OSError):
            stacks.mkdir(exist_ok=True)
            with open(stacks / f"rank-{self.world.rank:05}.txt", "w") as file:
                file.write(f"{verdict}\nthis is rank {self.world.rank}: {asdict(self._beat(0))}\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        # All read the verdict first: the store may live here, and this end is a lost connection to the others.
        time.sleep(lingers)
        os._exit(AGAIN)
