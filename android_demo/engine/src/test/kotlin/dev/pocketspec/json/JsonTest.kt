package dev.pocketspec.json

import java.math.BigInteger
import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Test

class JsonTest {
    private fun refusal(text: String): String = assertThrows(text, JsonException::class.java) { Json.parse(text) }.message!!

    @Test
    fun valuesComeInTheirOwnTypes() {
        val parsed = Json.parse(""" {"a": [1, -2.5e3, true, false, null], "b": {"c": "d"}, "e": {}, "f": [ ] } """)
        assertEquals(
            linkedMapOf(
                "a" to listOf(1L, -2500.0, true, false, null),
                "b" to mapOf("c" to "d"),
                "e" to emptyMap<String, Any?>(),
                "f" to emptyList<Any?>(),
            ),
            parsed,
        )
        assertEquals(listOf("a", "b", "e", "f"), (parsed as Map<*, *>).keys.toList())
        assertEquals(BigInteger("1000000000000000019884624838656"), Json.parse("1000000000000000019884624838656"))
        assertEquals(Long.MIN_VALUE, Json.parse("-9223372036854775808"))
    }

    @Test
    fun textsKeepEveryCharacter() {
        assertEquals("a\"\\/\b\u000C\n\r\té", Json.parse("\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\""))
        assertEquals("\uD83D\uDE00", Json.parse("\"\\ud83d\\ude00\""))
        assertEquals("\uD83D!", Json.parse("\"\\uD83D!\""))
        assertEquals("日本 \uD83D\uDE00 \u007F", Json.parse("\"日本 \uD83D\uDE00 \u007F\""))
    }

    @Test
    fun refusalsNameThePlace() {
        assertEquals("is not JSON: line 2, column 5: expected ':' after a name", refusal("{\n\"a\" 1}"))
        assertEquals("is not JSON: line 1, column 1: expected a value", refusal(""))
        val wrong = listOf(
            "{", "[1,]", "{\"a\":1,}", "[1 2]", "01", "1.", ".5", "+1", "1e", "-", "nul", "NaN", "Infinity", "-Infinity",
            "\"a", "\"\\x\"", "\"\\u12g4\"", "\"\u0001\"", "1 1", "1\u0000", "{\"a\":1,\"a\":2}", "{a:1}", "'a'", "\uFEFF1", "1e999",
            "[".repeat(65) + "]".repeat(65), "1".repeat(4301),
        )
        for (text in wrong) assertTrue(text, refusal(text).startsWith("is not JSON: line "))
        Json.parse("[".repeat(64) + "]".repeat(64))
    }

    @Test
    fun bytesMustBeUtf8() {
        assertEquals("é\uFFFD", Json.parse("\"é\uFFFD\"".toByteArray()))
        for (broken in listOf("C0 80", "ED A0 80", "F4 90 80 80", "E2 82", "FF", "E2 28 A1", "80", "F0 8F BF BF")) {
            val bytes = byteArrayOf(34) + broken.split(' ').map { it.toInt(16).toByte() } + byteArrayOf(34)
            val error = assertThrows(JsonException::class.java) { Json.parse(bytes) }
            assertEquals("is not UTF-8 at byte 1", error.message)
        }
    }

    @Test
    fun whatIsWrittenIsReadBack() {
        val numbers = listOf(1L, 0.1, -1e-7, 1e22, 1e16, true, null)
        val value = linkedMapOf("z" to numbers, "a" to "\u0000\"\\日\uD83D\uDE00\u2028", "" to emptyMap<String, Any?>())
        for (ascii in listOf(true, false)) assertEquals(value, Json.parse(Json.write(value, ascii)))
        val text = "\\u0000\\\"\\\\\\u65e5\\ud83d\\ude00\\u2028"
        assertEquals("{\"z\":[1,0.1,-1e-07,1e+22,1e+16,true,null],\"a\":\"$text\",\"\":{}}", Json.write(value, true))
    }

    @Test
    fun floatsAreWrittenAsPythonWritesThem() {
        val wanted = mapOf(
            1.0 to "1.0", 100.0 to "100.0", 1e15 to "1000000000000000.0", 123456789012345680.0 to "1.2345678901234568e+17",
            0.0001 to "0.0001", 0.00001 to "1e-05", 2e-44 to "2e-44", 5e-324 to "5e-324", 2.0e-3 to "0.002", 1e23 to "1e+23",
            -0.0 to "-0.0", 1.5 to "1.5", Double.MAX_VALUE to "1.7976931348623157e+308", 9007199254740993.0 to "9007199254740992.0",
        )
        for ((value, text) in wanted) assertEquals(text, PythonFloat.repr(value))
    }

    @Test
    fun indentsAndOrderAreAsPythonWritesThem() {
        val value = linkedMapOf("b" to listOf(1L, mapOf("c" to emptyList<Any?>())), "\uD83D\uDE00" to 1L, "\uFF01" to 2L)
        val wanted = "{\n  \"b\": [\n    1,\n    {\n      \"c\": []\n    }\n  ],\n  \"\uFF01\": 2,\n  \"\uD83D\uDE00\": 1\n}"
        assertEquals(wanted, JsonWriter(false, "  ", ",", ": ", true).write(value))
    }
}
