package dev.pocketspec.text.template

internal enum class TokenKind { DATA, BLOCK_BEGIN, BLOCK_END, PRINT_BEGIN, PRINT_END, NAME, STRING, INTEGER, FLOAT, OPERATOR, END }

internal class Token(val kind: TokenKind, val text: String, val line: Int)

/**
 * Splits a template into tokens as jinja2 does with `trim_blocks` and `lstrip_blocks`: a line break after a block goes,
 * and so does white space before a block that begins its line.
 */
internal class Lexer(template: String) {
    private val source = template.replace("\r\n", "\n").replace('\r', '\n').removeSuffix("\n")
    private val tokens = ArrayList<Token>()
    private var place = 0
    private var line = 1
    private var startsLine = true

    fun tokens(): List<Token> {
        while (place < source.length) readData()
        add(TokenKind.END, "the end")
        return tokens
    }

    private fun readData() {
        val begin = nextTag()
        if (begin < 0) {
            data(source.substring(place))
            place = source.length
            return
        }
        val kind = source[begin + 1]
        val sign = source.getOrNull(begin + 2)?.takeIf { it == '-' || it == '+' }
        data(stripped(source.substring(place, begin), sign, kind))
        advance(begin + if (sign == null) 2 else 3)
        when {
            kind == '#' -> skipComment()
            kind == '%' && skipsRaw() -> readRaw()
            kind == '%' -> readCode(TokenKind.BLOCK_BEGIN, TokenKind.BLOCK_END, "%}")
            else -> readCode(TokenKind.PRINT_BEGIN, TokenKind.PRINT_END, "}}")
        }
    }

    private fun nextTag(): Int {
        var at = source.indexOf('{', place)
        while (at >= 0 && source.getOrNull(at + 1).let { it != '%' && it != '{' && it != '#' }) at = source.indexOf('{', at + 1)
        return at
    }

    private fun stripped(text: String, sign: Char?, kind: Char): String {
        if (sign == '-') return text.trimEnd(::isSpace)
        if (sign == '+' || kind == '{') return text
        val lineStart = text.lastIndexOf('\n') + 1
        val isBlank = (lineStart > 0 || startsLine) && text.substring(lineStart).all(::isSpace)
        return if (isBlank) text.substring(0, lineStart) else text
    }

    private fun data(text: String) {
        if (text.isNotEmpty()) add(TokenKind.DATA, text)
    }

    private fun skipComment() {
        val end = source.indexOf("#}", place)
        if (end < 0) fail("a comment does not end")
        val sign = if (end > place) source[end - 1] else ' '
        advance(end + 2)
        afterTag(sign)
    }

    /** What follows the end of a block or comment with [sign] before it. */
    private fun afterTag(sign: Char) {
        startsLine = false
        if (sign == '-') skipSpace() else if (sign != '+' && source.getOrNull(place) == '\n') advance(place + 1)
        startsLine = place > 0 && source[place - 1] == '\n'
    }

    private fun skipSpace() {
        var end = place
        while (end < source.length && isSpace(source[end])) end++
        advance(end)
    }

    private fun skipsRaw(): Boolean {
        val end = wordThenEnd(place, "raw")
        if (end < 0) return false
        val hasSign = source[end - 3] == '-'
        advance(end)
        if (hasSign) skipSpace()
        return true
    }

    /** Where a tag ends that has [word] alone from [start] on; -1 if it has not. */
    private fun wordThenEnd(start: Int, word: String): Int {
        var at = start
        while (at < source.length && isSpace(source[at])) at++
        if (!source.startsWith(word, at)) return -1
        at += word.length
        while (at < source.length && isSpace(source[at])) at++
        if (source.getOrNull(at) == '-' || source.getOrNull(at) == '+') at++
        return if (source.startsWith("%}", at)) at + 2 else -1
    }

    private fun readRaw() {
        startsLine = false
        var begin = source.indexOf("{%", place)
        while (begin >= 0) {
            val sign = source.getOrNull(begin + 2)?.takeIf { it == '-' || it == '+' }
            val end = wordThenEnd(begin + if (sign == null) 2 else 3, "endraw")
            if (end >= 0) {
                data(stripped(source.substring(place, begin), sign, '%'))
                val last = source[end - 3]
                advance(end)
                afterTag(last)
                return
            }
            begin = source.indexOf("{%", begin + 2)
        }
        fail("a raw block does not end")
    }

    private fun readCode(begin: TokenKind, end: TokenKind, tag: String) {
        add(begin, tag)
        val open = ArrayList<Char>()
        while (true) {
            skipSpace()
            if (place >= source.length) fail("a block does not end")
            val signed = source[place] == '-' || (source[place] == '+' && tag == "%}")
            val at = place + if (signed) 1 else 0
            if (open.isEmpty() && source.startsWith(tag, at)) {
                add(end, tag)
                val sign = if (signed) source[place] else ' '
                advance(at + 2)
                if (tag == "%}") afterTag(sign) else afterPrint(sign)
                return
            }
            readToken(open)
        }
    }

    private fun afterPrint(sign: Char) {
        if (sign == '-') skipSpace()
        startsLine = sign == '-' && source[place - 1] == '\n'
    }

    private fun readToken(open: MutableList<Char>) {
        val character = source[place]
        when {
            character == '"' || character == '\'' -> readString(character)
            character in '0'..'9' -> readNumber()
            character == '_' || character.isLetter() -> readName()
            else -> readOperator(open)
        }
    }

    private fun readName() {
        var end = place
        while (end < source.length && (source[end] == '_' || source[end].isLetterOrDigit())) end++
        take(TokenKind.NAME, end)
    }

    private fun readNumber() {
        var end = digits(place)
        var kind = TokenKind.INTEGER
        val isAfterPoint = place > 0 && source[place - 1] == '.'
        if (!isAfterPoint && source.getOrNull(end) == '.' && source.getOrNull(end + 1) in '0'..'9') {
            kind = TokenKind.FLOAT
            end = digits(end + 1)
        }
        val sign = if (source.getOrNull(end + 1) == '-' || source.getOrNull(end + 1) == '+') 1 else 0
        val hasExponent = source.getOrNull(end) == 'e' || source.getOrNull(end) == 'E'
        if (!isAfterPoint && hasExponent && source.getOrNull(end + 1 + sign) in '0'..'9') {
            kind = TokenKind.FLOAT
            end = digits(end + 1 + sign)
        }
        take(kind, end)
    }

    private operator fun CharRange.contains(character: Char?): Boolean =
        character != null && character >= first && character <= last

    private fun digits(start: Int): Int {
        var end = start
        while (end < source.length && (source[end] in '0'..'9' || source[end] == '_')) end++
        return end
    }

    private fun readString(quote: Char) {
        var end = place + 1
        while (end < source.length && source[end] != quote) end += if (source[end] == '\\') 2 else 1
        if (end >= source.length) fail("a text does not end")
        add(TokenKind.STRING, unescaped(source.substring(place + 1, end)))
        advance(end + 1)
    }

    private fun unescaped(text: String): String {
        if ('\\' !in text) return text
        val built = StringBuilder()
        var at = 0
        while (at < text.length) {
            val character = text[at++]
            if (character != '\\') {
                built.append(character)
                continue
            }
            val kind = text[at++]
            val simple = SIMPLE[kind]
            when {
                simple != null -> built.append(simple)
                kind == '\n' -> Unit
                kind in HEXADECIMAL -> {
                    val end = at + HEXADECIMAL.getValue(kind)
                    val code = if (end <= text.length) text.substring(at, end).toIntOrNull(16) else null
                    if (code == null || code !in 0..0x10FFFF) fail("a text has an escape without hexadecimal digits")
                    built.appendCodePoint(code)
                    at = end
                }
                kind in '0'..'7' || kind == 'N' -> fail("a text has the escape '\\$kind', which this app does not know")
                else -> built.append('\\').append(kind)
            }
        }
        return built.toString()
    }

    private fun readOperator(open: MutableList<Char>) {
        val two = source.substring(place, minOf(place + 2, source.length))
        val length = if (two in TWO) 2 else 1
        val character = source[place]
        if (length == 1 && character !in ONE) fail("unexpected '$character'")
        when (character) {
            '(', '[', '{' -> open.add(character)
            ')', ']', '}' -> if (open.isEmpty()) fail("unexpected '$character'") else open.removeAt(open.size - 1)
        }
        take(TokenKind.OPERATOR, place + length)
    }

    private fun take(kind: TokenKind, end: Int) {
        add(kind, source.substring(place, end))
        advance(end)
    }

    private fun add(kind: TokenKind, text: String) {
        tokens.add(Token(kind, text, line))
        if (tokens.size > MOST_TOKENS) fail("it has more than $MOST_TOKENS words")
    }

    private fun advance(end: Int) {
        for (at in place until end) if (source[at] == '\n') line++
        place = end
    }

    private fun fail(what: String): Nothing = throw TemplateException("line $line: $what")

    private companion object {
        const val MOST_TOKENS = 100_000
        const val ONE = "+-*/%~=<>|.:,()[]{}"
        val TWO = setOf("**", "//", "==", "!=", "<=", ">=")
        val SIMPLE = mapOf(
            'n' to '\n', 't' to '\t', 'r' to '\r', '\\' to '\\', '\'' to '\'', '"' to '"', 'a' to '\u0007', 'b' to '\b',
            'f' to '\u000C', 'v' to '\u000B',
        )
        val HEXADECIMAL = mapOf('x' to 2, 'u' to 4, 'U' to 8)
    }
}
