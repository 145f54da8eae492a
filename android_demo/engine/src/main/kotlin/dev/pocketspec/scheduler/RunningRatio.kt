package dev.pocketspec.scheduler

/**
 * The running ratio of what was observed to what was predicted, robust against single hiccups.
 *
 * Every observation is the median of the latest three, so a lasting change shows with the second. It is clipped to
 * within a factor [most] of the current value and enters with weight [share].
 */
internal class RunningRatio(private val share: Double, private val most: Double) {
    var value = 1.0
        private set
    private var older = 1.0
    private var old = 1.0

    fun observe(ratio: Double) {
        val usual = maxOf(minOf(older, old), minOf(maxOf(older, old), ratio))
        older = old
        old = ratio
        value += share * (minOf(maxOf(usual, value / most), value * most) - value)
    }
}
