package dev.pocketspec.models

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import java.io.Closeable
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** Rows of a forward, how many of them have logits, and whether they are a tree. */
internal data class ForwardKind(val width: Int, val logitsRows: Int, val tree: Boolean)

/** The tensors of the KV cache, which are past and present at once, so that a graph copies nothing. */
internal class CacheTensors(private val signature: Signature, cache: KvCache, reserved: Int) : Closeable {
    private val shape = longArrayOf(1, signature.kvHeads.toLong(), reserved.toLong(), signature.kvRowSize.toLong())
    private val tensors = cache.arrays.map { tensor(it, shape, signature.kvType) }

    /** The tensors by the names of the graph's inputs. */
    fun inputs(): Map<String, OnnxTensor> = signature.kvInputs.zip(tensors).toMap()

    /** The same tensors by the names of the graph's outputs. */
    fun outputs(): Map<String, OnnxTensor> = signature.kvOutputs.zip(tensors).toMap()

    override fun close() = tensors.forEach { it.close() }
}

/**
 * Everything that forwards of one [kind] are given and give: tensors over the buffers of a work block, made once. Only
 * the mask, and a tree's bias, are made anew for each forward, because their length changes.
 */
internal class Binding(val kind: ForwardKind, cache: CacheTensors, private val block: ArenaBlock, vocabSize: Int) : Closeable {
    private val inputs = LinkedHashMap<String, OnnxTensor>(cache.inputs())
    private val outputs = LinkedHashMap<String, OnnxTensor>(cache.outputs())
    private val own = ArrayList<OnnxTensor>()

    init {
        val width = longArrayOf(1, kind.width.toLong())
        val ids = kind.width * Long.SIZE_BYTES
        input("input_ids", block.view("input_ids", bytes = ids), width)
        input("position_ids", block.view("position_ids", bytes = ids), width)
        input("logits_from", block.view("logits_from"), longArrayOf(1))
        if (!kind.tree) inputs["tree_bias"] = keep(tensor(noBias(), longArrayOf(1, 1, 1, 1), OnnxJavaType.FLOAT))
        if (kind.logitsRows > 0) {
            val logits = block.view("logits", bytes = kind.logitsRows * vocabSize * Float.SIZE_BYTES)
            val shape = longArrayOf(1, kind.logitsRows.toLong(), vocabSize.toLong())
            outputs["logits"] = keep(tensor(logits, shape, OnnxJavaType.FLOAT))
        }
    }

    /** Runs [session] after [past] rows; returns the nanoseconds within ONNX Runtime. */
    fun run(session: OrtSession, past: Int): Long {
        val total = past + kind.width
        val mask = block.view("attention_mask", bytes = total * Long.SIZE_BYTES)
        tensor(mask, longArrayOf(1, total.toLong()), OnnxJavaType.INT64).use { masked ->
            inputs["attention_mask"] = masked
            return if (kind.tree) runTree(session, total) else run(session)
        }
    }

    private fun runTree(session: OrtSession, total: Int): Long {
        val bias = block.view("tree_bias", bytes = kind.width * total * Float.SIZE_BYTES)
        val shape = longArrayOf(1, 1, kind.width.toLong(), total.toLong())
        tensor(bias, shape, OnnxJavaType.FLOAT).use {
            inputs["tree_bias"] = it
            return run(session)
        }
    }

    private fun run(session: OrtSession): Long {
        val start = System.nanoTime()
        session.run(inputs, outputs).close() // closes nothing that is pinned
        return System.nanoTime() - start
    }

    private fun input(name: String, memory: ByteBuffer, shape: LongArray) {
        inputs[name] = keep(tensor(memory, shape, OnnxJavaType.INT64))
    }

    private fun keep(tensor: OnnxTensor): OnnxTensor = tensor.also { own.add(it) }

    override fun close() = own.forEach { it.close() }

    private companion object {
        /** What exported graphs have as the default of their bias. */
        fun noBias(): ByteBuffer = ByteBuffer.allocateDirect(Float.SIZE_BYTES).order(ByteOrder.nativeOrder())
    }
}

/** A tensor over [memory], which is not copied. */
internal fun tensor(memory: ByteBuffer, shape: LongArray, type: OnnxJavaType): OnnxTensor =
    OnnxTensor.createTensor(OrtEnvironment.getEnvironment(), memory, shape, type)
