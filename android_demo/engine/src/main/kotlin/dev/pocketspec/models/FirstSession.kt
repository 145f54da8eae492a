package dev.pocketspec.models

import dev.pocketspec.plan.Block
import dev.pocketspec.plan.Buffer
import dev.pocketspec.plan.LevelPlan
import java.io.File

/**
 * Runs a decoder of two layers and closes it again. What ONNX Runtime and the library of native operators take once and
 * keep, and the pages of both that any model touches, are the process's own from then on, and can be measured before a
 * bundle is planned; `memory.plan_table` relies on that. `python -m tests.android_demo.first_session` writes the decoders.
 */
object FirstSession {
    private const val ROWS = 4
    private const val CAPACITY = 4 * ROWS
    private val done = HashSet<String>()

    /** Does that once for each kind of [kernels]. */
    @Synchronized
    fun run(kernels: Kernels) {
        if (kernels.name in done) return
        val name = "first-session-${kernels.name}.onnx"
        val graph = checkNotNull(javaClass.getResourceAsStream(name)) { "no $name" }.use { it.readBytes() }
        val options = kernels.sessionOptions(File(name).absoluteFile.parentFile, 1, kernels.name == Kernels.NATIVE)
        val opened = OpenedSession.open(name, options) { OnnxGraph.withRequiredInputs(graph, name) }
        OrtModel(opened, Arena(DirectAllocator()), plan(name, kernels, opened.signature), ROWS).use { model ->
            val tokens = IntArray(2 * ROWS + 1) { it }
            model.prefill(tokens)
            model.forward(tokens.copyOf(ROWS), IntArray(ROWS) { it - 1 }, 0)
        }
        done.add(kernels.name)
    }

    private fun plan(name: String, kernels: Kernels, signature: Signature): LevelPlan {
        val kv = signature.kvHeads * CAPACITY * signature.kvRowBytes
        val cache = block("cache", listOf(Triple("kv", kv, signature.kvInputs.size)))
        val ids = ROWS * Long.SIZE_BYTES
        val work = mapOf(
            "logits" to ROWS * signature.vocabSize * Float.SIZE_BYTES,
            "input_ids" to ids,
            "position_ids" to ids,
            "logits_from" to Long.SIZE_BYTES,
            "attention_mask" to CAPACITY * Long.SIZE_BYTES,
            "tree_bias" to ROWS * CAPACITY * Float.SIZE_BYTES,
        )
        return LevelPlan(
            name = name,
            role = "target",
            residence = kernels.name,
            kvType = "fp32",
            capacity = CAPACITY,
            maxRows = ROWS,
            tree = true,
            logitsRows = ROWS,
            threads = 1,
            parts = emptyList(),
            cache = cache,
            work = block("work", work.map { (buffer, bytes) -> Triple(buffer, bytes, 1) }),
        )
    }

    /** A block of buffers, by name, bytes and count. */
    private fun block(name: String, wanted: List<Triple<String, Int, Int>>): Block {
        var end = 0
        val buffers = wanted.map { (buffer, bytes, count) ->
            val stride = (bytes + ArenaAllocator.ALIGNMENT - 1) / ArenaAllocator.ALIGNMENT * ArenaAllocator.ALIGNMENT
            Buffer(buffer, end, bytes, count, stride).also { end += count * stride }
        }
        return Block(name, end.toLong(), buffers.associateBy { it.name })
    }
}
