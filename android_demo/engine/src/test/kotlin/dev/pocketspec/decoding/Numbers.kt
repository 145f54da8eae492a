package dev.pocketspec.decoding

/** The random numbers of `runtime/kernels/selftest/numbers.py`: the same in both languages. */
class Numbers(vararg seeds: Long) {
    private var state = seeds.fold(0L) { state, seed -> mixed(state xor seed) }

    /** Numbers from [low] to [high], evenly distributed. */
    fun uniform(low: Double, high: Double, count: Int): FloatArray = FloatArray(count) {
        (low + (high - low) * ((word() ushr 40).toDouble() / (1 shl 24))).toFloat()
    }

    /** Numbers with mean 0 and deviation 1, nearly normal: each is a sum of four uniform ones. */
    fun bell(count: Int): FloatArray = FloatArray(count) {
        val word = word()
        var total = -2L * 0xFFFF
        for (part in 0 until 4) total += (word ushr 16 * part) and 0xFFFF
        (total / SPREAD).toFloat()
    }

    /** A whole number from 0 to [below], without it. */
    fun whole(below: Int): Int = ((word() ushr 32) % below).toInt()

    private fun word(): Long = mixed(state++)

    private fun mixed(word: Long): Long {
        var mixed = (word + 1) * -0x61c8864680b583ebL
        mixed = (mixed xor (mixed ushr 30)) * -0x40a7b892e31b1a47L
        mixed = (mixed xor (mixed ushr 27)) * -0x6b2fb644ecceee15L
        return mixed xor (mixed ushr 31)
    }

    private companion object {
        const val SPREAD = 37837.0
    }
}
