package dev.pocketspec.text

import dev.pocketspec.json.JsonObject
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File

/** Turns keep the tokens that they have in Python, and the text after them has those of the whole. */
class TokenHistoryTest {
    @Test
    fun everyConversationHasPythonsTokens() {
        val differences = TextFixtures.files("history").flatMap(::differences)
        assertTrue("${differences.size}:\n" + differences.take(8).joinToString("\n"), differences.isEmpty())
    }

    private fun differences(file: File): List<String> {
        val cases = TextFixtures.lines(file)
        val tokenizer = TokenizerFile.read(cases.first().text("tokenizer"))
        return cases.drop(1).mapNotNull { case -> difference(tokenizer, case)?.let { "${file.name}: $it" } }.toList()
    }

    private fun difference(tokenizer: Tokenizer, case: JsonObject): String? {
        val history = TokenHistory(tokenizer)
        for ((number, turn) in case.children("turns").withIndex()) {
            val found = history.encode(turn.text("text")).toList()
            val expected = turn.ints("tokens").toList()
            val same = found.zip(expected).takeWhile { it.first == it.second }.size
            if (found != expected) return "turn $number after $same tokens ${found.drop(same)}, not ${expected.drop(same)}: ${turn.values}"
            history.addAnswer(turn.ints("answer"), turn.text("shown"), turn.boolean("ended"))
        }
        return null
    }

    @Test
    fun thePartOfATokenBehindThePlaceIsEncodedAlone() {
        val tokenizer = TokenizerFile.read(ALPHABET)
        assertArrayEquals(intArrayOf(3), tokenizer.encode("ab", addSpecialTokens = false))
        assertArrayEquals(intArrayOf(1, 2), tokenizer.encodeRest("abc", 1, intArrayOf(0)))
        assertArrayEquals(intArrayOf(2), tokenizer.encodeRest("abc", 2, intArrayOf(3)))
        assertArrayEquals(intArrayOf(3, 2), tokenizer.encodeRest("abc", 0, IntArray(0)))
        assertEquals(listOf(true, false, true, true), (0..3).map { tokenizer.isBetweenTokens("abc", it) })
    }

    private companion object {
        const val ALPHABET = """{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3}, "merges": ["a b"]}}"""
    }
}
