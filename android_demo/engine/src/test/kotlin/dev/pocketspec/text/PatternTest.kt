package dev.pocketspec.text

import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

class PatternTest {
    private fun matches(pattern: String, text: String): List<String> {
        val found = ArrayList<String>()
        Pattern(pattern).eachMatch(text) { start, end -> found.add(text.substring(start, end)) }
        return found
    }

    @Test
    fun theFirstAlternativeThatMatchesCounts() {
        assertEquals(listOf("a", "ab"), matches("a(?=c)|ab|b", "acab"))
        assertEquals(listOf("\uD83D\uDE00", "x"), matches(".", "\uD83D\uDE00\nx"))
        assertEquals(listOf("  ", " x"), matches("\\s+(?!\\S)| ?\\S+", "   x"))
    }

    @Test
    fun repetitionsGiveBackWhatTheRestNeeds() {
        assertEquals(listOf("aab"), matches("a*ab", "aab"))
        assertEquals(emptyList<String>(), matches("a*+ab", "aab"))
        assertEquals(listOf("12", "34", "5"), matches("\\d{1,2}", "12345"))
        assertEquals(listOf("axb"), matches("a.{1,3}?b", "axbxb"))
    }

    @Test
    fun caseIsIgnoredWhereThePatternSaysSo() {
        assertEquals(listOf("'S", "'LL", "'\u017F"), matches("(?i:'s|'ll)", "'S 'LL '\u017F 's".dropLast(3)))
        assertEquals(emptyList<String>(), matches("'s", "'S"))
    }

    @Test
    fun whatIsNotKnownIsNamed() {
        val behind = listOf("(?<=a)b", "\\bx", "^a", "(?<n>a)", "\\1")
        for (pattern in behind + listOf("[[:alpha:]]", "(ab)+", "\\p{Han}", "a{2", "[a&&b]", "(?i:\\p{L})")) {
            val error = assertThrows(pattern, PatternException::class.java) { Pattern(pattern) }
            assertTrue(error.message!!, error.message!!.startsWith("its pattern has "))
        }
    }

    @Test
    fun aPatternThatTriesEveryWayIsStopped() {
        val hostile = Pattern("a*a*a*a*a*a*b")
        assertThrows(PatternException::class.java) { hostile.eachMatch("a".repeat(2000)) { _, _ -> } }
    }
}
