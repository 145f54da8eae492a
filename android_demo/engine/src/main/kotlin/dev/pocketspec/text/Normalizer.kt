package dev.pocketspec.text

/** Changes a text before it is split into words. */
internal fun interface Normalizer {
    fun normalize(text: String): String
}

/** The normalizers that occur with byte-pair encodings. */
internal object Normalizers {
    val NONE = Normalizer { it }

    fun unicode(canonical: Boolean, composed: Boolean) =
        Normalizer { UnicodeNormalization.normalize(it, canonical, composed) }

    fun lowercase() = Normalizer { Unicode.lowercase(it) }

    fun prepend(front: String) = Normalizer { if (it.isEmpty()) it else front + it }

    fun replace(matches: Matches, content: String) = Normalizer { matches.replace(it, content) }

    fun strip(left: Boolean, right: Boolean) = Normalizer { text ->
        var start = 0
        var end = text.length
        while (left && start < end && Unicode.isSpace(text[start].code)) start++
        while (right && start < end && Unicode.isSpace(text[end - 1].code)) end--
        text.substring(start, end)
    }

    fun sequence(parts: List<Normalizer>) = Normalizer { parts.fold(it) { text, part -> part.normalize(text) } }
}

/** Finds places in texts: of a fixed text, of a pattern, or of characters of a kind. */
internal fun interface Matches {
    /** Calls [found] for each match, from left to right. */
    fun each(text: String, found: (Int, Int) -> Unit)

    /** [text] with [content] in place of each match. */
    fun replace(text: String, content: String): String {
        val built = StringBuilder(text.length)
        var done = 0
        each(text) { start, end ->
            built.append(text, done, start).append(content)
            done = end
        }
        return built.append(text, done, text.length).toString()
    }

    companion object {
        fun of(fixed: String) = Matches { text, found ->
            var place = text.indexOf(fixed)
            while (place >= 0 && fixed.isNotEmpty()) {
                found(place, place + fixed.length)
                place = text.indexOf(fixed, place + fixed.length)
            }
        }

        fun of(pattern: Pattern) = Matches { text, found -> pattern.eachMatch(text, found) }

        fun ofCharacters(isOne: (Int) -> Boolean) = Matches { text, found ->
            var place = 0
            while (place < text.length) {
                val code = text.codePointAt(place)
                val end = place + Character.charCount(code)
                if (isOne(code)) found(place, end)
                place = end
            }
        }
    }
}
