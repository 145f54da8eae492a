package dev.pocketspec.scheduler

import dev.pocketspec.decoding.Pick
import dev.pocketspec.decoding.Scheduler
import dev.pocketspec.decoding.Step

/** The same pick for every step. Without a drafter it is plain decoding. */
class FixedScheduler(private val pick: Pick = Pick(null)) : Scheduler {
    override fun pick(last: Step?): Pick = pick
}
