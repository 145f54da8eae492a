package dev.pocketspec.app

import kotlin.math.ln
import kotlin.math.pow

/** The budget slider: equal steps multiply the bytes, from [low] to [high]. */
class BudgetScale(private val low: Long, high: Long) {
    private val ratio = maxOf(high.toDouble() / low, 1.0001)

    /** The bytes at [place], of [STEPS]. */
    fun bytes(place: Int): Long = (low * ratio.pow(place.toDouble() / STEPS)).toLong()

    /** The place of [bytes]. */
    fun place(bytes: Long): Int = (STEPS * ln(maxOf(bytes.toDouble() / low, 1.0)) / ln(ratio)).toInt().coerceIn(0, STEPS)

    companion object {
        const val STEPS = 1_000
    }
}
