package dev.pocketspec.bundle

import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNull
import kotlin.test.assertTrue

class ManifestReaderTest {
    private val text = String(SmallBundle().manifest())

    @Test
    fun `every field is read`() {
        val manifest = ManifestReader.read(text)
        assertEquals(listOf("target", "one"), manifest.levels.map { it.name })
        assertEquals("drafters/one/model.onnx", manifest.level("one").path("model.onnx"))
        assertEquals(ModelShape(1, 8, 2, 1, 4, 16, 64), manifest.target.shape)
        assertEquals(2, manifest.target.endTokens.single())
        assertNull(manifest.target.native)
        assertTrue("one" in assertFailsWith<PocketspecException> { manifest.level("x") }.message)
    }

    @Test
    fun `older schemas are read, a newer one is refused with the remedy`() {
        for (schema in 1..4) ManifestReader.read(text.replace("\"schema\":4", "\"schema\":$schema"))
        assertTrue("update the app" in refusal("\"schema\":4", "\"schema\":99"))
        val drafters = mapOf(6 to "another drafter", 8 to "another drafter", 9 to "another drafter")
        val remedies = drafters + mapOf(5 to "another architecture", 7 to "another architecture")
        for ((schema, remedy) in remedies) assertTrue(remedy in refusal("\"schema\":4", "\"schema\":$schema"), "$schema")
    }

    @Test
    fun `what no export writes is refused in one sentence with the command`() {
        val changes = listOf(
            "\"schema\":4" to "\"schema\":0",
            "\"schema\":4" to "\"schema\":\"4\"",
            "\"role\":\"drafter\"" to "\"role\":\"target\"",
            "\"role\":\"drafter\"" to "\"role\":\"judge\"",
            "\"layers\":1" to "\"layers\":0",
            "\"kv_heads\":1" to "\"kv_heads\":3",
            "\"weight_bytes\":100" to "\"weight_bytes\":-1",
            "\"weight_bytes\":100" to "\"weight_bytes\":1e2",
            "\"name\":\"one\"" to "\"name\":\"target\"",
            "\"graphs\":{\"fp32\"" to "\"graphs\":{\"fp8\"",
            "\"graphs\":{\"fp32\":\"model.onnx\"}" to "\"graphs\":{}",
            "\"graphs\":{\"fp32\":\"model.onnx\"}" to "\"graphs\":{\"fp32\":\"other.onnx\"}",
            "\"files\":{" to "\"files\":{\"pocketspec.json\":{\"bytes\":1,\"sha256\":\"0\"},",
            "{" to "[",
        )
        for ((from, to) in changes) assertTrue("python -m export" in refusal(from, to), to)
    }

    @Test
    fun `names that leave the bundle are refused`() {
        for (name in listOf("../x.onnx", "/x.onnx", "a/../x.onnx", "c:x.onnx", "a\\\\x.onnx", "")) {
            refusal("\"graphs\":{\"fp32\":\"model.onnx\"}", "\"graphs\":{\"fp32\":\"$name\"}")
            refusal("\"files\":{", "\"files\":{\"$name\":{\"bytes\":1,\"sha256\":\"0\"},")
            refusal("\"folder\":\"drafters/one\"", "\"folder\":\"$name\"")
        }
    }

    @Test
    fun `packed weights of another layout are refused`() {
        val native = "\"tree\":true,\"native\":{\"graphs\":{\"fp32\":\"model.onnx\"},\"table\":\"native.json\"," +
            "\"data\":\"native.data\",\"data_bytes\":4096,\"layout\":1}"
        val level = text.replaceFirst("\"tree\":true", native)
        assertEquals(4096L, ManifestReader.read(level).target.native?.dataBytes)
        val refused = assertFailsWith<PocketspecException> { ManifestReader.read(level.replace("\"layout\":1", "\"layout\":2")) }
        assertTrue("layout 2" in refused.message)
    }

    private fun refusal(from: String, to: String): String {
        val broken = text.replaceFirst(from, to)
        assertTrue(broken != text, from)
        val message = assertFailsWith<PocketspecException>(to) { ManifestReader.read(broken) }.message
        assertEquals(1, message.lines().size)
        return message
    }
}
