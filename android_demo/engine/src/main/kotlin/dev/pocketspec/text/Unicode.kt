package dev.pocketspec.text

/**
 * Kinds of characters, as the tokenizers library has them.
 *
 * They are asked of neither Java nor Android, each version of which knows other characters: a text must be split in the
 * same places on every machine. Tables are runs of code points: base-32 numbers, the length of a run and its value.
 */
internal object Unicode {
    /** The names of the categories; the place of each is its number. */
    val CATEGORIES: List<String> =
        "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cn".split(' ')

    private val categories by lazy { Runs(UnicodeSets.CATEGORIES) }
    private val numeric by lazy { Runs(UnicodeSets.NUMERIC) }
    private val word by lazy { Runs(UnicodeSets.WORD) }
    private val lowercase by lazy { readLowercase() }

    /** The number of the general category of [code]. */
    fun category(code: Int): Int = categories[code]

    /** The categories with the name [name], which may be the first letter of several, as bits; 0 if there are none. */
    fun categoryBits(name: String): Int {
        var bits = 0
        CATEGORIES.forEachIndexed { number, each -> if (each == name || each.substring(0, 1) == name) bits = bits or (1 shl number) }
        return bits
    }

    /** Whether [code] is a digit or another number, as Rust has it. */
    fun isNumeric(code: Int): Boolean = if (code < 128) code in 48..57 else numeric[code] == 1

    /** Whether [code] may stand in a word. */
    fun isWord(code: Int): Boolean = word[code] == 1

    /** Whether [code] is white space. The set has not changed since 2013. */
    fun isSpace(code: Int): Boolean = when (code) {
        in 0x09..0x0D, 0x20, 0x85, 0xA0, 0x1680, in 0x2000..0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000 -> true
        else -> false
    }

    /** [text] with each character in lower case, whatever is around it. */
    fun lowercase(text: String): String {
        val built = StringBuilder(text.length)
        text.eachCode { code -> lowercase[code]?.let { built.append(it) } ?: built.appendCodePoint(code) }
        return built.toString()
    }

    private fun readLowercase(): Map<Int, String> {
        val map = HashMap<Int, String>()
        val numbers = Numbers(UnicodeSets.LOWERCASE)
        var code = 0
        while (numbers.hasMore()) {
            code += numbers.next()
            val built = StringBuilder()
            for (place in 0 until numbers.next()) built.appendCodePoint(code + numbers.nextSigned())
            map[code] = built.toString()
        }
        return map
    }
}

/** A small number for every code point, as runs of equal ones. */
internal class Runs(table: Array<String>) {
    private val starts: IntArray
    private val values: ByteArray

    init {
        val numbers = Numbers(table)
        val ends = IntList()
        val found = IntList()
        var end = 0
        while (numbers.hasMore()) {
            ends.add(end)
            end += numbers.next()
            found.add(numbers.next())
        }
        starts = ends.toArray()
        values = ByteArray(found.size) { found[it].toByte() }
    }

    operator fun get(code: Int): Int {
        var low = 0
        var high = starts.size - 1
        while (low < high) {
            val middle = (low + high + 1) ushr 1
            if (starts[middle] <= code) low = middle else high = middle - 1
        }
        return values[low].toInt()
    }
}

/** Reads numbers in base 32, lowest digit first; digits from the upper half have more after them. */
internal class Numbers(private val parts: Array<String>) {
    private var part = 0
    private var place = 0

    fun hasMore(): Boolean = part < parts.size

    fun next(): Int {
        var number = 0
        var shift = 0
        while (true) {
            val digit = digit()
            number = number or ((digit and 31) shl shift)
            if (digit < 32) return number
            shift += 5
        }
    }

    fun nextSigned(): Int {
        val number = next()
        return if (number and 1 == 0) number shr 1 else -((number + 1) shr 1)
    }

    private fun digit(): Int {
        val character = parts[part][place++]
        if (place == parts[part].length) {
            part++
            place = 0
        }
        return when (character) {
            in 'A'..'Z' -> character - 'A'
            in 'a'..'z' -> character - 'a' + 26
            in '0'..'9' -> character - '0' + 52
            '+' -> 62
            else -> 63
        }
    }
}

/** Calls [act] for each code point. */
internal inline fun String.eachCode(act: (Int) -> Unit) {
    var place = 0
    while (place < length) {
        val code = codePointAt(place)
        act(code)
        place += Character.charCount(code)
    }
}
