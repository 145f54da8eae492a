package dev.pocketspec.decoding

/** How many of a step's tokens stand, and why the answer ends: "eos", "stop", "length", or null if it does not. */
class Cut(val keep: Int, val reason: String? = null)

/** Where an answer ends. */
interface StoppingCriterion {
    /** How many of the last [fresh] tokens of [generated] stand, and why the answer ends, if it does. */
    fun cut(generated: List<Int>, fresh: Int): Cut
}
