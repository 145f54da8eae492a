package dev.pocketspec.models

import dev.pocketspec.bundle.BundleFiles
import dev.pocketspec.decoding.Logits
import dev.pocketspec.json.Json
import dev.pocketspec.json.JsonObject
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.security.MessageDigest
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertTrue

/** The same forwards as on the Python side, whose logits `tests/android_demo/forward_fixtures.py` has written as hashes. */
class ForwardsTest {
    private val fixture = Json.parseObject(ModelFixtures.file("forwards.json").readText())
    private val demo = DemoModels()

    @Test
    fun `logits equal Python's bit for bit in every KV type`() {
        val runs = fixture.child("runs")
        assertTrue(runs.names.isNotEmpty())
        for (kvType in runs.names) {
            val plan = demo.plan(fixture.int("context"), kvType)
            demo.levels.open(plan.target, plan).use {
                for (operation in runs.children(kvType)) perform(it, operation, kvType)
            }
        }
        assertEquals(0L, demo.arena.bytes)
    }

    private fun perform(model: OrtModel, operation: JsonObject, kvType: String) {
        when (operation.text("op")) {
            "prefill" -> model.prefill(operation.ints("tokens"))
            "rollback" -> model.cache.rollback(operation.int("length"), operation.ints("kept"))
            else -> {
                val parents = if (operation.has("parents")) operation.ints("parents", -1..100) else null
                val logits = model.forward(operation.ints("tokens"), parents, operation.int("from"))
                assertEquals(operation.text("sha256"), hash(logits), "$kvType after ${model.cache.length} rows")
            }
        }
    }

    private fun hash(logits: Logits): String {
        val digest = MessageDigest.getInstance("SHA-256")
        val row = FloatArray(logits.vocabSize)
        val bytes = ByteBuffer.allocate(row.size * Float.SIZE_BYTES).order(ByteOrder.LITTLE_ENDIAN)
        for (at in 0 until logits.rows) {
            logits.read(at, row)
            bytes.asFloatBuffer().put(row)
            digest.update(bytes.array())
        }
        return BundleFiles.hexadecimal(digest.digest())
    }
}
