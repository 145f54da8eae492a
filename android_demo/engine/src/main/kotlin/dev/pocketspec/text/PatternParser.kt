package dev.pocketspec.text

/** Reads a regular expression; PatternException names what this app does not know in it. */
internal class PatternParser(private val source: String) {
    private var place = 0
    private var depth = 0

    fun parse(): PatternNode {
        val node = alternatives(false)
        if (place < source.length) refuse("an unmatched ')'")
        return node
    }

    private fun alternatives(ignoresCase: Boolean): PatternNode {
        if (++depth > MOST_DEPTH) refuse("groups nested more than $MOST_DEPTH deep")
        val found = ArrayList<PatternNode>()
        do {
            found.add(sequence(ignoresCase))
        } while (take("|"))
        depth--
        return found.singleOrNull() ?: FirstOf(found)
    }

    private fun sequence(ignoresCase: Boolean): PatternNode {
        val parts = ArrayList<PatternNode>()
        while (place < source.length && source[place] != '|' && source[place] != ')') {
            parts.add(repetition(atom(ignoresCase)))
        }
        return parts.singleOrNull() ?: InOrder(parts)
    }

    private fun atom(ignoresCase: Boolean): PatternNode {
        val start = place
        return when {
            take("(?:") -> group { alternatives(ignoresCase) }
            take("(?i:") -> group { alternatives(true) }
            take("(?=") -> group { LookAhead(alternatives(ignoresCase), false) }
            take("(?!") -> group { LookAhead(alternatives(ignoresCase), true) }
            source.startsWith("(?", place) -> refuse("'${source.substring(start, minOf(start + 4, source.length))}'")
            take("(") -> group { alternatives(ignoresCase) }
            take("[") -> OneOf(set(ignoresCase))
            take(".") -> OneOf(CharacterSet.Builder().range('\n'.code, '\n'.code).build(isNegated = true))
            source[place] in "^$*+?{" -> refuse("'${source[place]}'")
            else -> OneOf(CharacterSet.Builder().also { item(it, ignoresCase) }.build())
        }
    }

    private fun group(read: () -> PatternNode): PatternNode {
        val node = read()
        if (!take(")")) refuse("a group that does not end")
        return node
    }

    private fun repetition(node: PatternNode): PatternNode {
        var repeated = node
        while (true) {
            val range = when {
                take("*") -> 0..Int.MAX_VALUE
                take("+") -> 1..Int.MAX_VALUE
                take("?") -> 0..1
                place < source.length && source[place] == '{' -> counts()
                else -> return repeated
            }
            val isLazy = take("?")
            val isPossessive = !isLazy && range.last == Int.MAX_VALUE && take("+")
            val greed = if (isLazy) Greed.Fewest else if (isPossessive) Greed.All else Greed.Most
            repeated = when {
                repeated is OneOf -> Repeated(repeated, range.first, range.last, greed)
                range == 0..1 -> Perhaps(repeated, isLazy)
                else -> refuse("the repetition of a group")
            }
        }
    }

    private fun counts(): IntRange {
        val end = source.indexOf('}', place)
        val parts = if (end < 0) emptyList() else source.substring(place + 1, end).split(',')
        val first = parts.getOrNull(0)?.toIntOrNull()
        val last = if (parts.size == 1) first else if (parts.getOrNull(1) == "") Int.MAX_VALUE else parts.getOrNull(1)?.toIntOrNull()
        if (first == null || last == null || parts.size > 2 || first > last) refuse("'{' without counts")
        place = end + 1
        return first..last
    }

    private fun set(ignoresCase: Boolean): CharacterSet {
        val builder = CharacterSet.Builder()
        val isNegated = take("^")
        var isFirst = true
        while (isFirst || place >= source.length || source[place] != ']') {
            if (place >= source.length) refuse("a set that does not end")
            if (source[place] == '[' || source.startsWith("&&", place)) refuse("a set within a set")
            if (source[place] == ']') refuse("an empty set")
            isFirst = false
            item(builder, ignoresCase, inSet = true)
        }
        place++
        return builder.build(isNegated)
    }

    /** Reads a character, a range of them if [inSet], or an escape that stands for several, into [builder]. */
    private fun item(builder: CharacterSet.Builder, ignoresCase: Boolean, inSet: Boolean = false) {
        if (source[place] == '\\' && kinds(builder, ignoresCase)) return
        val first = character()
        val isRange = inSet && place + 1 < source.length && source[place] == '-' && source[place + 1] != ']'
        if (isRange) place++
        val last = if (isRange) character() else first
        if (last < first) refuse("a range that ends before it begins")
        if (!ignoresCase) builder.range(first, last) else builder.bothCases(first, last)
    }

    /** The characters from [first] to [last] in lower and upper case, as Oniguruma folds them. */
    private fun CharacterSet.Builder.bothCases(first: Int, last: Int) {
        for (code in first..last) {
            if (code >= 128) refuse("other letters than ASCII's with '(?i:'")
            val small = code.toChar().toString().lowercase()[0].code
            range(small, small)
            if (small in 'a'.code..'z'.code) range(small - 32, small - 32)
            if (small == 's'.code) range(LONG_S, LONG_S)
            if (small == 'k'.code) range(KELVIN, KELVIN)
        }
    }

    /** Reads an escape that stands for several characters; false if another one comes. */
    private fun kinds(builder: CharacterSet.Builder, ignoresCase: Boolean): Boolean {
        when (source.getOrNull(place + 1)) {
            's', 'S' -> builder.space(source[place + 1] == 'S')
            'd', 'D' -> builder.categories(opposite(Unicode.categoryBits("Nd"), source[place + 1] == 'D'))
            'p', 'P' -> return property(builder, ignoresCase)
            'w', 'W', 'b', 'B', 'A', 'z', 'Z', 'G', 'h', 'H', 'R', 'X', 'K', 'k', 'g', in '0'..'9' ->
                refuse("'\\${source[place + 1]}'")
            else -> return false
        }
        place += 2
        return true
    }

    private fun property(builder: CharacterSet.Builder, ignoresCase: Boolean): Boolean {
        val end = source.indexOf('}', place)
        val name = if (source.getOrNull(place + 2) == '{' && end > 0) source.substring(place + 3, end) else ""
        val bits = Unicode.categoryBits(name.removePrefix("^"))
        if (bits == 0 || ignoresCase) refuse("'\\p{${name.removePrefix("^")}}'")
        builder.categories(opposite(bits, (source[place + 1] == 'P') != name.startsWith("^")))
        place = end + 1
        return true
    }

    private fun opposite(bits: Int, isWanted: Boolean): Int = if (isWanted) bits.inv() and ALL else bits

    private fun character(): Int {
        if (place >= source.length) refuse("an end within a set")
        val code = source.codePointAt(place)
        place += Character.charCount(code)
        return if (code == '\\'.code) escape() else code
    }

    private fun escape(): Int {
        if (place >= source.length) refuse("a '\\' at its end")
        val code = source.codePointAt(place)
        place += Character.charCount(code)
        return when (code.toChar()) {
            'n' -> '\n'.code
            'r' -> '\r'.code
            't' -> '\t'.code
            'f' -> 0x0C
            'v' -> 0x0B
            'a' -> 0x07
            'e' -> 0x1B
            'x' -> if (source.getOrNull(place) != '{') hexadecimal(place, place + 2, 0)
            else hexadecimal(place + 1, source.indexOf('}', place), 1)
            'u' -> hexadecimal(place, place + 4, 0)
            else -> if (code < 128 && code.toChar().isLetterOrDigit()) refuse("'\\${code.toChar()}'") else code
        }
    }

    private fun hexadecimal(start: Int, end: Int, after: Int): Int {
        val code = if (end in start..source.length) source.substring(start, end).toIntOrNull(16) else null
        if (code == null || code !in 0..0x10FFFF) refuse("an escape without hexadecimal digits")
        place = end + after
        return code
    }

    private fun take(what: String): Boolean {
        val isNext = source.startsWith(what, place)
        if (isNext) place += what.length
        return isNext
    }

    private fun refuse(what: String): Nothing {
        throw PatternException("its pattern has $what, which this app does not know")
    }

    private companion object {
        const val MOST_DEPTH = 32
        const val LONG_S = 0x17F
        const val KELVIN = 0x212A
        const val ALL = (1 shl 29) - 1
    }
}
