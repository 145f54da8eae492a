package dev.pocketspec.models

import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession
import dev.pocketspec.bundle.PocketspecException
import dev.pocketspec.decoding.Logits
import dev.pocketspec.decoding.Model
import dev.pocketspec.plan.LevelPlan
import java.io.Closeable
import java.nio.FloatBuffer

/**
 * One model on ONNX Runtime: a session, its KV cache, and the forwards through both, all in the blocks of [plan].
 *
 * All buffers are made when the model is opened or resized; afterwards a forward makes a few objects and nothing larger.
 * Past and present share their memory, so the graph copies nothing, and rollback only changes a length.
 */
class OrtModel internal constructor(
    private val opened: OpenedSession,
    private val arena: Arena,
    plan: LevelPlan,
    prefillChunk: Int,
) : Model, Closeable {
    private val signature = opened.signature
    private val bindings = HashMap<ForwardKind, Binding>()
    private var cacheBlock = arena.take(plan.cache)
    private var reserved = plan.capacity
    private var cacheTensors: CacheTensors
    private lateinit var work: ArenaBlock
    private lateinit var inputs: StepInputs
    private lateinit var logits: FloatBuffer
    private var chunk = prefillChunk
    private var isOpen = true

    var plan = plan
        private set
    override var cache = KvCache(cacheBlock, signature, reserved)
        private set
    override val vocabSize: Int get() = signature.vocabSize
    override val maxRows: Int get() = plan.maxRows
    override val takesTrees: Boolean get() = plan.tree

    /** The numbers of rows that are run; other numbers are padded to the next of them. */
    var widths: SafeWidths = SafeWidths.any(plan.maxRows)

    /** Nanoseconds within ONNX Runtime so far; the rest of a step is our own code. */
    var sessionNanos = 0L
        private set

    /** Called before every forward. It may throw, to give up a prompt between two chunks. */
    var beforeForward: () -> Unit = {}

    init {
        cacheTensors = CacheTensors(signature, cache, reserved)
        takeWork()
    }

    override fun padded(rows: Int): Int = widths.pad(rows)

    override fun forward(tokens: IntArray, parents: IntArray?, logitsFrom: Int): Logits {
        beforeForward()
        val rows = tokens.size
        val width = padded(rows)
        check(logitsFrom in 0 until rows && width <= maxRows) { "logits from $logitsFrom, $rows rows, $width of $maxRows" }
        check(width - logitsFrom <= plan.logitsRows) { "logits of ${width - logitsFrom} rows, planned are ${plan.logitsRows}" }
        check(parents == null || takesTrees) { "the plan of ${plan.name} has no trees" }
        cache.require(width)
        run(ForwardKind(width, width - logitsFrom, parents != null), tokens, 0, rows, parents)
        cache.append(tokens, 0, rows)
        return RowLogits(logits, rows - logitsFrom, vocabSize)
    }

    override fun prefill(tokens: IntArray) {
        cache.require(tokens.size)
        var start = 0
        while (start < tokens.size) {
            beforeForward()
            val rows = minOf(chunk, tokens.size - start)
            run(ForwardKind(rows, 0, false), tokens, start, rows, null)
            cache.append(tokens, start, rows)
            start += rows
        }
    }

    /**
     * Changes the sizes and keeps session and cached rows; what is cached must fit. The old work block is freed before a
     * new one is taken. The cache stays where it is, unless it gets larger than it ever was.
     */
    fun resize(plan: LevelPlan, prefillChunk: Int) {
        closeBindings()
        work.close()
        if (plan.capacity > reserved) moveCache(plan)
        cache.limit(plan.capacity)
        this.plan = plan
        chunk = prefillChunk
        takeWork()
    }

    override fun close() {
        if (!isOpen) return
        isOpen = false
        beforeForward = { throw PocketspecException("This model is closed; open the bundle again.") }
        closeBindings()
        cacheTensors.close()
        opened.close()
        work.close()
        cacheBlock.close()
    }

    /** The KV rows as bytes, for comparing forwards. */
    internal val cachedBytes get() = cache.arrays.map { it.duplicate() }
    internal val kvLayout get() = KvLayout(signature.kvHeads, reserved, signature.kvRowBytes)

    private fun moveCache(plan: LevelPlan) {
        val block = arena.take(plan.cache)
        val moved = KvCache(block, signature, plan.capacity).also { it.copyFrom(cache) }
        cacheTensors.close()
        cacheBlock.close()
        cacheBlock = block
        reserved = plan.capacity
        cache = moved
        cacheTensors = CacheTensors(signature, moved, reserved)
    }

    private fun takeWork() {
        work = arena.take(plan.work)
        inputs = StepInputs(work, plan.capacity)
        logits = work.view("logits").asFloatBuffer()
    }

    private fun run(kind: ForwardKind, tokens: IntArray, start: Int, rows: Int, parents: IntArray?) {
        inputs.tokens(tokens, start, rows, kind.width)
        inputs.logitsFrom(kind.width - kind.logitsRows)
        if (parents == null) inputs.chain(rows, kind.width, cache.length) else inputs.tree(parents, kind.width, cache.length)
        val known = bindings[kind]
        val binding = known ?: Binding(kind, cacheTensors, work, vocabSize)
        try {
            sessionNanos += binding.run(opened.session, cache.length)
        } catch (error: OrtException) {
            throw PocketspecException("${plan.name} cannot be run: ${Kernels.firstLine(error)}.", error)
        } finally {
            // The last chunks of prompts have many different sizes: their tensors are not kept.
            if (kind.width <= maxRows || kind.width == chunk) bindings[kind] = binding else binding.close()
        }
    }

    private fun closeBindings() {
        bindings.values.forEach { it.close() }
        bindings.clear()
    }
}

/** A session with what must live as long as it does, and its graph's signature. */
class OpenedSession internal constructor(
    internal val session: OrtSession,
    private val options: OrtSession.SessionOptions,
    internal val signature: Signature,
) : Closeable {
    override fun close() {
        session.close()
        // The operators' library is unloaded with the options.
        options.close()
    }

    companion object {
        /** Opens the graph of the model called [name]; the session closes [options] with itself, also if it fails. */
        internal fun open(name: String, options: OrtSession.SessionOptions, graph: () -> ByteArray): OpenedSession {
            try {
                val session = OrtEnvironment.getEnvironment().createSession(graph(), options)
                return OpenedSession(session, options, Signature.read(session, name))
            } catch (error: Throwable) {
                options.close()
                if (error !is OrtException) throw error
                throw PocketspecException("ONNX Runtime cannot open $name: ${Kernels.firstLine(error)}.", error)
            }
        }
    }
}

/** Where KV rows lie in each array: heads, rows of a head, bytes of a row. */
internal data class KvLayout(val heads: Int, val rows: Int, val rowBytes: Int)

private class RowLogits(private val values: FloatBuffer, override val rows: Int, override val vocabSize: Int) : Logits {
    override fun read(row: Int, out: FloatArray, count: Int) {
        require(row in 0 until rows && count in 0..vocabSize) { "row $row of $rows, $count of $vocabSize" }
        values.position(row * vocabSize)
        values.get(out, 0, count)
    }
}
