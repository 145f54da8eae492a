package dev.pocketspec.decoding

/**
 * How tokens are chosen, under Hugging Face's names. The defaults are greedy.
 *
 * [temperature] 0 takes the most probable token, the lowest id at a tie. [topK] 0, [topP] 1, [minP] 0 and
 * [repetitionPenalty] 1 have no effect; the penalty also applies to greedy decoding. [seed] is any 64 bits.
 * SamplingException names a bad value.
 */
data class SamplingParams(
    val temperature: Double = 0.0,
    val topK: Int = 0,
    val topP: Double = 1.0,
    val minP: Double = 0.0,
    val repetitionPenalty: Double = 1.0,
    val seed: Long = 0,
) {
    init {
        check("temperature", temperature, 0.0, 1e6, "0 is greedy, 1 the model's own distribution")
        if (temperature > 0 && temperature < 1e-6) {
            throw SamplingException("temperature is $temperature, allowed: 0 or 1e-06 to 1e+06; 0 is greedy")
        }
        if (topK < 0) throw SamplingException("top_k is $topK, allowed: whole numbers from 0; 0 keeps every token")
        check("top_p", topP, 0.0, 1.0, "1 keeps every token")
        check("min_p", minP, 0.0, 1.0, "0 keeps every token")
        check("repetition_penalty", repetitionPenalty, 1e-3, 1e3, "1 is none, 1.1 a usual one")
    }

    private fun check(name: String, value: Double, low: Double, high: Double, hint: String) {
        if (value >= low && value <= high) return
        throw SamplingException("$name is $value, allowed: $low to $high; $hint")
    }
}
