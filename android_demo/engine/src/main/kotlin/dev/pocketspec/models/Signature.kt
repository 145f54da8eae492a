package dev.pocketspec.models

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import dev.pocketspec.bundle.PocketspecException

/**
 * A graph's inputs and outputs: the KV cache's names in the graph's order, the heads and size of its rows in elements of
 * [kvType] of [kvElementBytes] bytes, and the width of the logits.
 */
class Signature private constructor(
    val kvInputs: List<String>,
    val kvOutputs: List<String>,
    val kvHeads: Int,
    val kvRowSize: Int,
    val kvType: OnnxJavaType,
    val vocabSize: Int,
) {
    val kvElementBytes: Int get() = ELEMENT_BYTES.getValue(kvType)
    val kvRowBytes: Int get() = kvRowSize * kvElementBytes

    companion object {
        private const val PAST = "past_key_values."
        private const val PRESENT = "present."
        private val KNOWN = listOf("input_ids", "attention_mask", "position_ids", "tree_bias", "logits_from")
        private val ELEMENT_BYTES =
            mapOf(OnnxJavaType.FLOAT to 4, OnnxJavaType.FLOAT16 to 2, OnnxJavaType.INT8 to 1, OnnxJavaType.UINT8 to 1)

        /** The signature of the session's graph; PocketspecException for one that the app does not run. */
        fun read(session: OrtSession, name: String): Signature {
            val inputs = session.inputInfo
            val outputs = session.outputInfo
            val past = session.inputNames.filter { it.startsWith(PAST) }
            val present = past.map { it.replace(PAST, PRESENT) }
            val unknown = inputs.keys.firstOrNull { it !in past && it !in KNOWN }
            val missing = KNOWN.firstOrNull { it !in inputs } ?: (present + "logits").firstOrNull { it !in outputs }
            if (unknown != null || missing != null || past.isEmpty()) {
                val what = if (unknown != null) "needs $unknown" else "lacks ${missing ?: "a KV cache"}"
                refuse(name, "is no decoder that this app runs: it $what")
            }
            val caches = past.map { inputs.getValue(it).info as TensorInfo }
            val shapes = caches.map { Triple(it.shape.getOrElse(1) { -1 }, it.shape.getOrElse(3) { -1 }, it.type) }.distinct()
            val (heads, size, type) = shapes[0]
            if (shapes.size != 1 || heads < 1 || size < 1 || type !in ELEMENT_BYTES) refuse(name, "has KV caches of several shapes")
            val logits = outputs.getValue("logits").info as TensorInfo
            val vocab = logits.shape.last()
            if (logits.type != OnnxJavaType.FLOAT || vocab < 1) refuse(name, "has logits in ${logits.type}")
            return Signature(past, present, heads.toInt(), size.toInt(), type, vocab.toInt())
        }

        private fun refuse(name: String, fault: String): Nothing =
            throw PocketspecException("The graph of $name $fault; take a model of another architecture.")
    }
}
