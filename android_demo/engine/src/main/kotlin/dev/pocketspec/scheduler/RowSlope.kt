package dev.pocketspec.scheduler

// The calibrated slope counts as much as a forward that took this much longer than one of a single row, squared.
private const val PRIOR_WEIGHT = 0.06
private const val MEMORY = 0.98

// A forward that was held up says nothing about rows: further from what is expected, it counts as this far.
private const val MOST = 0.5

/**
 * How much dearer than one row more rows of the target really are, as a multiple of what was calibrated: of a forward
 * that was calibrated to take (1 + e) times as long as one of a single row, (1 + [value] e) is expected.
 *
 * A calibration on a busy machine is wrong for all numbers of rows in the same way. So what one number of rows shows
 * says something about all others, also those never tried. It is a least squares fit that slowly forgets.
 */
internal class RowSlope {
    private var product = PRIOR_WEIGHT
    private var square = PRIOR_WEIGHT

    val value: Double get() = maxOf(product / square, 0.0)

    /** A forward that was calibrated to take [extra] longer took [observed] longer. */
    fun observe(extra: Double, observed: Double) {
        val expected = value * extra
        val clipped = minOf(maxOf(observed, expected - MOST * (1 + expected)), expected + MOST * (1 + expected))
        product = MEMORY * product + extra * clipped
        square = MEMORY * square + extra * extra
    }
}
