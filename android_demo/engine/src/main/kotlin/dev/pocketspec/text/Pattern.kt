package dev.pocketspec.text

/**
 * A regular expression of a tokenizer, with what those of tokenizers use of Oniguruma's syntax: literals, sets,
 * categories, alternatives, groups, repetitions and lookaheads.
 *
 * Java's own expressions are not used: what `\s` and `\p{L}` match in them differs from one machine to the next.
 */
internal class Pattern(source: String) {
    private val root = PatternParser(source).parse()

    /**
     * Calls [found] for each match in [text] from left to right, with where it begins and ends.
     *
     * As in Oniguruma's crate for Rust, an empty match right behind another one is passed over.
     */
    fun eachMatch(text: String, found: (Int, Int) -> Unit) {
        val search = Search(text)
        var place = 0
        var lastEnd = -1
        while (place <= text.length) {
            val end = root.match(search, place, ACCEPT)
            val isAllowed = end > place || (end == place && lastEnd != place)
            if (isAllowed) {
                found(place, end)
                lastEnd = end
            }
            place = if (end > place) end else place + search.width(place)
        }
    }

    internal companion object {
        val ACCEPT = object : Rest {
            override fun match(place: Int): Int = place
        }
    }
}

/** What must match after a part of a pattern; returns where the whole ends, or -1. */
internal interface Rest {
    fun match(place: Int): Int
}

/** One text that is searched, with a limit on the work: a pattern of a stranger may try each way through a text. */
internal class Search(val text: String) {
    private var left = STEPS + STEPS_PER_CHARACTER * text.length

    fun step() {
        if (--left < 0) throw PatternException("a pattern of the tokenizer takes too long for this text")
    }

    /** How many units the character at [place] has; 1 at the end. */
    fun width(place: Int): Int =
        if (place + 1 < text.length && Character.isSurrogatePair(text[place], text[place + 1])) 2 else 1

    private companion object {
        const val STEPS = 1_000_000L
        const val STEPS_PER_CHARACTER = 200L
    }
}

/** A pattern that cannot be read, or takes too long. */
internal class PatternException(message: String) : RuntimeException(message)

/** A part of a pattern. */
internal abstract class PatternNode {
    /** Where a match from [place] on ends, with [rest] after this part; -1 if there is none. */
    abstract fun match(search: Search, place: Int, rest: Rest): Int
}

/** One character of a set. */
internal class OneOf(val set: CharacterSet) : PatternNode() {
    override fun match(search: Search, place: Int, rest: Rest): Int {
        val end = end(search, place)
        return if (end < 0) -1 else rest.match(end)
    }

    /** Where the character at [place] ends; -1 if it is not in the set. */
    fun end(search: Search, place: Int): Int {
        search.step()
        if (place >= search.text.length || search.text.codePointAt(place) !in set) return -1
        return place + search.width(place)
    }
}

/** Parts one after the other. */
internal class InOrder(private val parts: List<PatternNode>) : PatternNode() {
    override fun match(search: Search, place: Int, rest: Rest): Int = matchFrom(0, search, place, rest)

    private fun matchFrom(first: Int, search: Search, place: Int, rest: Rest): Int {
        if (first == parts.size) return rest.match(place)
        return parts[first].match(search, place, object : Rest {
            override fun match(place: Int): Int = matchFrom(first + 1, search, place, rest)
        })
    }
}

/** The first alternative with which the whole matches. */
internal class FirstOf(private val alternatives: List<PatternNode>) : PatternNode() {
    override fun match(search: Search, place: Int, rest: Rest): Int {
        for (alternative in alternatives) {
            val end = alternative.match(search, place, rest)
            if (end >= 0) return end
        }
        return -1
    }
}

/** How many a repetition prefers: as many as possible, as few, or as many and never fewer. */
internal enum class Greed { Most, Fewest, All }

/** Characters of a set, from [least] to [most] of them. */
internal class Repeated(
    private val one: OneOf,
    private val least: Int,
    private val most: Int,
    private val greed: Greed,
) : PatternNode() {
    override fun match(search: Search, place: Int, rest: Rest): Int =
        if (greed == Greed.Fewest) matchFewest(search, place, rest) else matchMost(search, place, rest)

    private fun matchMost(search: Search, place: Int, rest: Rest): Int {
        var count = 0
        var end = place
        while (count < most) {
            val next = one.end(search, end)
            if (next < 0) break
            end = next
            count++
        }
        while (count >= least) {
            val whole = rest.match(end)
            if (whole >= 0 || greed == Greed.All) return whole
            if (--count >= least) end = Character.offsetByCodePoints(search.text, end, -1)
        }
        return -1
    }

    private fun matchFewest(search: Search, place: Int, rest: Rest): Int {
        var count = 0
        var end = place
        while (true) {
            val whole = if (count >= least) rest.match(end) else -1
            if (whole >= 0 || count == most) return whole
            end = one.end(search, end)
            if (end < 0) return -1
            count++
        }
    }
}

/** A part that may be there, if [isLazy] preferably not. */
internal class Perhaps(private val part: PatternNode, private val isLazy: Boolean) : PatternNode() {
    override fun match(search: Search, place: Int, rest: Rest): Int {
        val first = if (isLazy) rest.match(place) else part.match(search, place, rest)
        if (first >= 0) return first
        return if (isLazy) part.match(search, place, rest) else rest.match(place)
    }
}

/** Looks whether a part matches from here on, or does not if [isNegative]. */
internal class LookAhead(private val part: PatternNode, private val isNegative: Boolean) : PatternNode() {
    override fun match(search: Search, place: Int, rest: Rest): Int {
        val isMatch = part.match(search, place, Pattern.ACCEPT) >= 0
        return if (isMatch != isNegative) rest.match(place) else -1
    }
}
