package dev.pocketspec.models

import dev.pocketspec.bundle.PocketspecException
import java.io.ByteArrayOutputStream
import kotlin.random.Random
import kotlin.test.Test
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

class OnnxGraphTest {
    @Test
    fun `defaults are left out, and everything else stays`() {
        val weight = tensor("weight", "model.onnx.data")
        val whole = model(weight + tensor("tree_bias") + field(11, "input") + tensor("logits_from"))
        assertContentEquals(model(weight + field(11, "input")), OnnxGraph.withRequiredInputs(whole, "g"))
    }

    @Test
    fun `weights of other folders are refused`() {
        for (place in listOf("../x", "/etc/passwd", "a/b", "..", "*/_ORT_MEM_ADDR_/*")) {
            val refused = assertFailsWith<PocketspecException> {
                OnnxGraph.withRequiredInputs(model(tensor("w", place)), "g.onnx")
            }
            assertTrue("another folder" in refused.message)
        }
    }

    @Test
    fun `what is cut off or no graph is refused or read, and never fails otherwise`() {
        val whole = model(tensor("weight", "model.onnx.data") + tensor("tree_bias"))
        val random = Random(5)
        var refused = 0
        for (round in 0 until 2000) {
            val broken = if (round % 2 == 0) whole.copyOf(random.nextInt(whole.size)) else whole.copyOf()
            if (broken.isNotEmpty()) broken[random.nextInt(broken.size)] = random.nextInt().toByte()
            try {
                OnnxGraph.withRequiredInputs(broken, "g.onnx")
            } catch (error: PocketspecException) {
                refused++
                assertEquals(1, error.message.lines().size)
            }
        }
        assertTrue(refused > 500)
    }

    private fun model(graph: ByteArray): ByteArray = field(8, "opset") + field(7, graph)

    private fun tensor(name: String, place: String? = null): ByteArray {
        val entry = if (place == null) ByteArray(0) else field(13, field(1, "location") + field(2, place))
        return field(5, field(8, name) + entry)
    }

    private fun field(number: Int, text: String) = field(number, text.toByteArray())

    private fun field(number: Int, content: ByteArray): ByteArray {
        val out = ByteArrayOutputStream()
        ProtoFields.writeHead(out, number, content.size)
        out.write(content, 0, content.size)
        return out.toByteArray()
    }
}
