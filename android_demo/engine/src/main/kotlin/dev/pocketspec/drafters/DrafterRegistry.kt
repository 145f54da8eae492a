package dev.pocketspec.drafters

import dev.pocketspec.bundle.PocketspecException
import dev.pocketspec.decoding.Drafter
import dev.pocketspec.decoding.Drafters
import dev.pocketspec.decoding.Model

private const val ABOVE = '>'

/**
 * Makes drafters by name for a target with [vocabSize] logits, each once: a level of [levels], "suffix", and
 * "LOWER>MIDDLE" for the level MIDDLE, which verifies drafts of LOWER.
 */
class DrafterRegistry(private val levels: Map<String, Model>, private val vocabSize: Int) : Drafters {
    private val made = HashMap<String, Drafter>()

    /** PocketspecException if there is no drafter called [name], or if a level of it is not open. */
    override fun get(name: String): Drafter = made.getOrPut(name) { make(name) }

    private fun make(name: String): Drafter {
        val split = name.lastIndexOf(ABOVE)
        if (split >= 0) {
            val lower = get(name.substring(0, split))
            return HierarchyDrafter(lower, level(name.substring(split + 1)), vocabSize, name)
        }
        return if (name == SUFFIX_NAME) SuffixDrafter() else DraftModelDrafter(level(name), vocabSize, name)
    }

    private fun level(name: String): Model = levels[name] ?: throw PocketspecException(
        "no drafter $name; there are: ${(levels.keys + SUFFIX_NAME).sorted().joinToString(", ")}",
    )
}
