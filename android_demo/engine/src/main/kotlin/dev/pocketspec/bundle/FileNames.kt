package dev.pocketspec.bundle

/** Names of files that a stranger wrote: in a manifest, a zip or a graph. */
object FileNames {
    private const val MOST_NAME = 500
    private const val MOST_PART = 200
    private const val FORBIDDEN = "<>:\"|?*\\"
    private val DEVICES = setOf("con", "prn", "aux", "nul") + (1..9).flatMap { listOf("com$it", "lpt$it") }

    /**
     * Why [name] is no plain relative path of a file on every system; null if it is one.
     *
     * Parts are separated by slashes. Refused are absolute paths, `..`, drives, backslashes, control characters, what
     * Windows reserves, and long names: the same names as on the Python side (`export/untrusted.py`).
     */
    fun fault(name: String): String? {
        if (name.toByteArray(Charsets.UTF_8).size > MOST_NAME) return "has more than $MOST_NAME bytes"
        if (name.any(::isForbidden)) return "has a character that names of files cannot have everywhere"
        for (part in name.split('/')) {
            if (part.isEmpty() || part == "." || part == "..") return "is no plain path within its folder"
            if (part.toByteArray(Charsets.UTF_8).size > MOST_PART) return "has a part of more than $MOST_PART bytes"
            if (part.last() in ". " || part.first() == ' ' || part.substringBefore('.').lowercase() in DEVICES) {
                return "is no name that files can have everywhere"
            }
        }
        return null
    }

    private fun isForbidden(character: Char): Boolean {
        val code = character.code
        val steers = code in 0x2028..0x202E || code in 0x2066..0x2069
        return code < 0x20 || code in 0x7F..0x9F || steers || character in FORBIDDEN
    }
}
