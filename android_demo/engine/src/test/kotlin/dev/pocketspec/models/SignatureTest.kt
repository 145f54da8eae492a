package dev.pocketspec.models

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OrtEnvironment
import dev.pocketspec.bundle.PocketspecException
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith

class SignatureTest {
    @Test
    fun `a decoder's sizes are read`() {
        val found = read("decoder")
        assertEquals(listOf(2, 4, 4, 16), listOf(found.kvHeads, found.kvRowSize, found.kvElementBytes, found.kvRowBytes))
        assertEquals(OnnxJavaType.FLOAT, found.kvType)
        assertEquals(found.kvInputs.map { it.replace("past_key_values", "present") }, found.kvOutputs)
    }

    @Test
    fun `models of other architectures are refused in a sentence that says what they need`() {
        val faults = mapOf(
            "recurrent" to "is no decoder that this app runs: it needs ssm_state.0",
            "encoder" to "is no decoder that this app runs: it lacks attention_mask",
            "no-cache" to "is no decoder that this app runs: it lacks a KV cache",
            "mixed-heads" to "has KV caches of several shapes",
        )
        for ((name, fault) in faults) {
            val refused = assertFailsWith<PocketspecException> { read(name) }
            assertEquals("The graph of it $fault; take a model of another architecture.", refused.message)
        }
    }

    private fun read(name: String): Signature {
        val file = ModelFixtures.file("$name.onnx")
        return OrtEnvironment.getEnvironment().createSession(file.path).use { Signature.read(it, "it") }
    }
}
