package dev.pocketspec.decoding

/** What a random number is for. Numbers of different streams are independent. */
enum class RandomStream(val word: Long) {
    TARGET(0),
    VERIFIER(1),
    DRAFTER(2),
}

/**
 * A number in [0, 1) with 53 random bits: a hash of its arguments (SplitMix64, integers only).
 *
 * It has no state, so plain and speculative decoding use the same number at the same [position].
 */
fun uniform(seed: Long, position: Int, stream: RandomStream = RandomStream.TARGET, index: Int = 0): Double {
    var state = mix(seed)
    state = mix(state xor position.toLong())
    state = mix(state xor stream.word)
    state = mix(state xor index.toLong())
    return (state ushr 11) * UNIT
}

private const val UNIT = 1.0 / (1L shl 53)

// 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9 and 0x94D049BB133111EB as signed numbers.
private const val INCREMENT = -0x61c8864680b583ebL
private const val FIRST_FACTOR = -0x40a7b892e31b1a47L
private const val SECOND_FACTOR = -0x6b2fb644ecceee15L

/** One step of SplitMix64 (Steele, Lea and Flood 2014). */
private fun mix(word: Long): Long {
    var mixed = word + INCREMENT
    mixed = (mixed xor (mixed ushr 30)) * FIRST_FACTOR
    mixed = (mixed xor (mixed ushr 27)) * SECOND_FACTOR
    return mixed xor (mixed ushr 31)
}
