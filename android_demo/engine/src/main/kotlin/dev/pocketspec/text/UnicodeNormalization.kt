package dev.pocketspec.text

/** The four normal forms of Unicode, of the version that the tokenizers library has. */
internal object UnicodeNormalization {
    private const val S_BASE = 0xAC00
    private const val L_BASE = 0x1100
    private const val V_BASE = 0x1161
    private const val T_BASE = 0x11A7
    private const val L_COUNT = 19
    private const val V_COUNT = 21
    private const val T_COUNT = 28
    private const val S_COUNT = L_COUNT * V_COUNT * T_COUNT

    private val tables by lazy { Tables() }

    /** [text] decomposed, with compatibility decompositions if not [canonical]; and composed again, if [composed]. */
    fun normalize(text: String, canonical: Boolean, composed: Boolean): String {
        if (isAscii(text)) return text
        val codes = decomposed(text, canonical)
        order(codes)
        val kept = if (composed) compose(codes) else codes.size
        val built = StringBuilder(text.length)
        for (place in 0 until kept) built.appendCodePoint(codes[place])
        return built.toString()
    }

    private fun isAscii(text: String): Boolean {
        for (character in text) if (character.code >= 128) return false
        return true
    }

    private fun decomposed(text: String, canonical: Boolean): IntList {
        val codes = IntList(text.length + 8)
        text.eachCode { code ->
            val parts = tables.decomposition(code, canonical)
            when {
                code in S_BASE until S_BASE + S_COUNT -> addHangul(codes, code - S_BASE)
                parts == null -> codes.add(code)
                else -> codes.addAll(parts)
            }
        }
        return codes
    }

    private fun addHangul(codes: IntList, syllable: Int) {
        codes.add(L_BASE + syllable / (V_COUNT * T_COUNT))
        codes.add(V_BASE + syllable % (V_COUNT * T_COUNT) / T_COUNT)
        if (syllable % T_COUNT > 0) codes.add(T_BASE + syllable % T_COUNT)
    }

    /** Orders marks that combine with the same character by their class, equal ones as they are. */
    private fun order(codes: IntList) {
        for (place in 1 until codes.size) {
            val code = codes[place]
            val own = tables.combiningClass(code)
            var at = place
            while (own > 0 && at > 0 && tables.combiningClass(codes[at - 1]) > own) {
                codes[at] = codes[at - 1]
                at--
            }
            codes[at] = code
        }
    }

    /** Composes in place; returns how many are left. */
    private fun compose(codes: IntList): Int {
        var kept = 0
        var starter = -1
        var last = -1
        for (place in 0 until codes.size) {
            val code = codes[place]
            val own = tables.combiningClass(code)
            val made = if (starter >= 0 && (last < own || last == -1)) pair(codes[starter], code) else -1
            if (made >= 0) {
                codes[starter] = made
                continue
            }
            if (own == 0) {
                starter = kept
                last = -1
            } else {
                last = own
            }
            codes[kept++] = code
        }
        return kept
    }

    private fun pair(first: Int, second: Int): Int {
        val leading = first - L_BASE
        val syllable = first - S_BASE
        return when {
            leading in 0 until L_COUNT && second - V_BASE in 0 until V_COUNT ->
                S_BASE + (leading * V_COUNT + second - V_BASE) * T_COUNT
            syllable in 0 until S_COUNT && syllable % T_COUNT == 0 && second - T_BASE in 1 until T_COUNT ->
                first + second - T_BASE
            else -> tables.composition(first, second)
        }
    }

    private class Tables {
        private val classes = Runs(UnicodeForms.COMBINING_CLASSES)
        private val canonical = HashMap<Int, IntArray>()
        private val compatible = HashMap<Int, IntArray>()
        private val compositions = HashMap<Long, Int>()

        init {
            val made = ArrayList<Int>()
            val numbers = Numbers(UnicodeForms.DECOMPOSITIONS)
            var code = 0
            while (numbers.hasMore()) {
                code += numbers.next()
                val flags = numbers.next()
                val own = code
                val parts = IntArray(numbers.next()) { own + numbers.nextSigned() }
                (if (flags and 1 == 1) canonical else compatible)[code] = parts
                if (flags and 2 == 2) made.add(code)
            }
            made.sortedBy { canonical.getValue(it).size }.forEach(::addComposition)
        }

        /** All but the last part of a decomposition are one character, which was composed before. */
        private fun addComposition(code: Int) {
            val parts = canonical.getValue(code)
            var first = parts[0]
            for (place in 1 until parts.size - 1) first = composition(first, parts[place])
            compositions[key(first, parts.last())] = code
        }

        fun decomposition(code: Int, canonicalOnly: Boolean): IntArray? =
            (if (canonicalOnly) null else compatible[code]) ?: canonical[code]

        fun combiningClass(code: Int): Int = if (code < 0x300) 0 else classes[code] and 0xFF

        fun composition(first: Int, second: Int): Int = compositions[key(first, second)] ?: -1

        private fun key(first: Int, second: Int): Long = first.toLong() shl 32 or second.toLong()
    }
}
