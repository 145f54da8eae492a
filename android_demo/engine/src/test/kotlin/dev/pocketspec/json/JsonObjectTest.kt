package dev.pocketspec.json

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertThrows
import org.junit.Test

class JsonObjectTest {
    private val data = Json.parseObject(
        """{"shape": {"layers": 0, "heads": 4, "ids": [1, 2, -1], "rate": 0.5}, "name": "demo", "flag": true, "none": null,
            "levels": [{"name": "far"}, {"name": 7}]}""",
    )

    private fun refusal(read: () -> Unit): String = assertThrows(JsonException::class.java) { read() }.message!!

    @Test
    fun fieldsAreReadByTypeAndRange() {
        assertEquals("demo", data.text("name"))
        assertEquals("demo", data.text("name", "demo", "other"))
        assertEquals(4, data.child("shape").int("heads", 1..64))
        assertEquals(0.5, data.child("shape").double("rate", 0.0, 1.0), 0.0)
        assertEquals(4.0, data.child("shape").double("heads"), 0.0)
        assertEquals(true, data.boolean("flag"))
        assertEquals(false, data.boolean("missing", false))
        assertNull(data.textOrNull("none"))
        assertNull(data.childOrNull("missing"))
        assertEquals("far", data.children("levels")[0].text("name"))
        assertArrayEquals(intArrayOf(1, 2, -1), data.child("shape").ints("ids", -1..9))
    }

    @Test
    fun refusalsNameThePathTheValueAndTheRange() {
        val layers = refusal { data.child("shape").int("layers", 1..Int.MAX_VALUE) }
        assertEquals("shape.layers is 0; it must be a whole number of at least 1", layers)
        assertEquals("shape.heads is 4; it must be a whole number from 5 to 6", refusal { data.child("shape").int("heads", 5..6) })
        assertEquals("shape.depth is missing; it must be a whole number", refusal { data.child("shape").long("depth") })
        assertEquals("levels[1].name is 7; it must be a text", refusal { data.children("levels")[1].text("name") })
        assertEquals("name is \"demo\"; it must be one of a, b", refusal { data.text("name", "a", "b") })
        assertEquals("name is \"demo\"; it must be an object", refusal { data.child("name") })
        assertEquals("none is null; it must be true or false", refusal { data.boolean("none") })
        assertEquals("shape is an object; it must be a list", refusal { data.list("shape") })
        assertEquals("the text is no JSON object", refusal { Json.parseObject("[]") })
    }
}
