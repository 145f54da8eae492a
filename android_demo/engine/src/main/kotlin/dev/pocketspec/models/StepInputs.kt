package dev.pocketspec.models

import java.nio.ByteBuffer
import java.nio.FloatBuffer
import java.nio.LongBuffer

/** Writes what changes from forward to forward into the buffers of a work block: ids, positions, mask and bias. */
internal class StepInputs(block: ArenaBlock, private val capacity: Int) {
    private val ids: LongBuffer = block.view("input_ids").asLongBuffer()
    private val positions: LongBuffer = block.view("position_ids").asLongBuffer()
    private val from: LongBuffer = block.view("logits_from").asLongBuffer()
    private val bias: FloatBuffer? = if ("tree_bias" in block.layout.buffers) block.view("tree_bias").asFloatBuffer() else null
    private val zeros = FloatArray(if (bias == null) 0 else capacity)

    init {
        val mask: ByteBuffer = block.view("attention_mask")
        val ones = mask.asLongBuffer()
        while (ones.hasRemaining()) ones.put(1L)
    }

    /** The row from which on there are logits. */
    fun logitsFrom(row: Int) {
        from.put(0, row.toLong())
    }

    /** [rows] of [tokens] from [start] on; padding up to [width] rows repeats the last one. */
    fun tokens(tokens: IntArray, start: Int, rows: Int, width: Int) {
        for (row in 0 until width) ids.put(row, tokens[start + minOf(row, rows - 1)].toLong())
    }

    /** The positions of a chain of [rows] rows after [past] rows. */
    fun chain(rows: Int, width: Int, past: Int) {
        for (row in 0 until width) positions.put(row, (past + minOf(row, rows - 1)).toLong())
    }

    /** Positions, and the bias that hides from each row what is not above it in the tree; a padding row sees itself. */
    fun tree(parents: IntArray, width: Int, past: Int) {
        val bias = checkNotNull(bias) { "the plan has no trees" }
        val total = past + width
        val visible = Array(width) { BooleanArray(width) }
        for (row in 0 until width) {
            visible[row][row] = true
            var depth = 0
            if (row < parents.size && parents[row] >= 0) {
                val above = visible[parents[row]]
                for (other in 0 until row) if (above[other]) visible[row][other] = true.also { depth++ }
            }
            positions.put(row, (past + depth).toLong())
            bias.position(row * total)
            bias.put(zeros, 0, past)
            for (other in 0 until width) bias.put(if (visible[row][other]) 0f else HIDDEN)
        }
        bias.clear()
    }

    private companion object {
        /** Hides a row from another: finite, so that biases can be added, and low enough for exp to give zero. */
        const val HIDDEN = -1e30f
    }
}
