package dev.pocketspec.json

import java.math.BigDecimal
import java.math.MathContext
import java.math.RoundingMode

/** Writes floating-point numbers as Python does: the fewest digits that read back as the same number. */
object PythonFloat {
    private const val MOST_DIGITS = 17
    private const val LARGEST_PLAIN = 16
    private const val SMALLEST_PLAIN = -4

    /** Python's `repr`. Java's own writes some numbers with more digits than needed, and each machine its own. */
    fun repr(value: Double): String = when {
        value.isNaN() -> "nan"
        value.isInfinite() -> if (value > 0) "inf" else "-inf"
        value == 0.0 -> if (1.0 / value < 0) "-0.0" else "0.0"
        else -> written(shortest(value))
    }

    /** As `json.dumps` writes it. */
    fun json(value: Double): String = when {
        value.isNaN() -> "NaN"
        value.isInfinite() -> if (value > 0) "Infinity" else "-Infinity"
        else -> repr(value)
    }

    private fun shortest(value: Double): BigDecimal {
        val exact = BigDecimal(value)
        for (digits in 1 until MOST_DIGITS) {
            val rounded = exact.round(MathContext(digits, RoundingMode.HALF_EVEN))
            if (rounded.toDouble() == value) return rounded
        }
        return exact.round(MathContext(MOST_DIGITS, RoundingMode.HALF_EVEN))
    }

    private fun written(value: BigDecimal): String {
        val digits = value.unscaledValue().abs().toString().trimEnd('0')
        val exponent = value.precision() - value.scale() - 1
        val sign = if (value.signum() < 0) "-" else ""
        return sign + if (exponent in SMALLEST_PLAIN until LARGEST_PLAIN) plain(digits, exponent) else scientific(digits, exponent)
    }

    private fun plain(digits: String, exponent: Int): String = when {
        exponent < 0 -> "0." + "0".repeat(-exponent - 1) + digits
        digits.length <= exponent + 1 -> digits + "0".repeat(exponent + 1 - digits.length) + ".0"
        else -> digits.substring(0, exponent + 1) + "." + digits.substring(exponent + 1)
    }

    private fun scientific(digits: String, exponent: Int): String {
        val mantissa = if (digits.length > 1) "${digits[0]}.${digits.substring(1)}" else digits
        val size = if (exponent < 0) -exponent else exponent
        return mantissa + "e" + (if (exponent < 0) "-" else "+") + (if (size < 10) "0" else "") + size
    }
}
