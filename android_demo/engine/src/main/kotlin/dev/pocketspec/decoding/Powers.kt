package dev.pocketspec.decoding

/** The binary logarithm of e. */
const val LOG2_E = 1.4426950408889634

// Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits.
private const val ROUNDER = 12582912f

// Powers below 2^-126 are set to 0: they are no normal float, and processors may flush such numbers to zero.
private const val LEAST = -126f

// 2^r = 1 + r * .. for r in [-1/2, 1/2], with the least maximum error: 1.9e-7 with all roundings.
private val POLYNOMIAL = floatArrayOf(0.00132647366f, 0.00967151672f, 0.0555073358f, 0.240222424f, 0.693147004f)

/**
 * Replaces the first [size] of [exponents], each at most 0, by 2 to the power of [factor] times it.
 *
 * Every step is an operation that IEEE 754 defines, in the order of `runtime/decoding/exact_math.py`: the same bits on
 * every processor, and in both languages.
 */
fun raiseTwo(exponents: FloatArray, size: Int, factor: Double) {
    val scale = factor.toFloat()
    for (index in 0 until size) exponents[index] = powerOfTwo(exponents[index] * scale)
}

private fun powerOfTwo(exponent: Float): Float {
    if (exponent < LEAST) return 0f
    val whole = exponent + ROUNDER
    val rest = exponent - (whole - ROUNDER)
    var power = rest * POLYNOMIAL[0]
    for (place in 1 until POLYNOMIAL.size) power = (power + POLYNOMIAL[place]) * rest
    return java.lang.Float.intBitsToFloat((power + 1f).toRawBits() + (whole.toRawBits() shl 23))
}
