package dev.pocketspec.scheduler

/**
 * Plain steps that may be lost: [most] at first and at most, refilled by a [share] of the time that passes.
 *
 * Against plain decoding it bounds what wrong drafts may cost, as in a conservative bandit (Wu et al. 2016, arXiv
 * 1602.04282); a second one bounds what trials may cost against the best known method.
 */
internal class LossBudget(private val share: Double = 0.01, private val most: Double = 2.0) {
    var balance = most
        private set

    /** [won] plain steps were won (below 0: lost) in the time of [steps] plain steps. */
    fun settle(won: Double, steps: Double) {
        balance = minOf(maxOf(balance + won + share * steps, 0.0), most)
    }

    /** Whether nothing was lost of late. */
    val isFull: Boolean get() = balance >= most

    /** The most that may be risked at once: all of a full balance, else half, so that a smaller draft can follow. */
    val affordable: Double get() = if (isFull) balance else balance / 2
}
