package dev.pocketspec.models

import dev.pocketspec.bundle.BundleFiles
import java.nio.ByteBuffer
import java.security.MessageDigest
import java.util.Random

/**
 * Finds the numbers of rows whose forwards agree bit for bit, by trying them with this [model] on this device.
 *
 * A kernel may compute one row differently from four. Then the last bits of the logits depend on how many rows were
 * verified together, and could turn a token into another one. So every step runs at widths that agree. The same as
 * `runtime/models/exact_widths.py`. The model must not pad; its cache is overwritten and left empty.
 */
class ExactWidths(private val model: OrtModel) {
    // A full context leaves room for one more forward than the graph has positions.
    private val positions = maxOf(model.cache.capacity - model.maxRows, 2)
    private val rows = minOf(model.maxRows, positions / 2)
    private val prefix = minOf(PREFIX_ROWS, positions - 2 * rows)
    private val tokens = Random(0).let { random -> IntArray(prefix + 2 * rows) { random.nextInt(model.vocabSize) } }
    private val row = FloatArray(model.vocabSize)

    /** The largest set of widths that agree, among equals the one with the smallest width. */
    fun find(): SafeWidths {
        model.cache.rollback(0)
        model.prefill(tokens.copyOf(prefix))
        val agreeing = LinkedHashMap<String, MutableList<Int>>()
        for (width in 1..rows) agreeing.getOrPut(fingerprint(width)) { ArrayList() }.add(width)
        var best = agreeing.values.maxWith(compareBy({ it.size }, { -it[0] }))
        var exact = best.size > 1 && best.last() >= rows - 1
        if (rows <= PLAIN_ROWS) {
            // Without drafts every step runs the same number of rows: the padded one, as plain steps beside drafted ones.
            best = agreeing.values.first { rows in it }
            exact = true
        }
        val wide = best.firstOrNull { it >= TREE_ROWS }
        val tree = exact && model.takesTrees && wide != null && treeAgrees(wide)
        model.cache.rollback(0)
        return if (exact) SafeWidths(best.toIntArray(), true, tree) else SafeWidths.any(model.maxRows)
    }

    /** A hash of logits and cache rows for the tokens behind the prefix, run [width] rows at a time. */
    private fun fingerprint(width: Int): String {
        model.cache.rollback(prefix)
        val digest = MessageDigest.getInstance("SHA-256")
        for (start in 0 until rows step width) {
            val logits = model.forward(tokens.copyOfRange(prefix + start, prefix + start + width))
            for (at in 0 until minOf(width, rows - start)) {
                logits.read(at, row)
                digest.update(bytes(row))
            }
        }
        val (heads, held, rowBytes) = model.kvLayout
        for (array in model.cachedBytes) {
            for (head in 0 until heads) {
                array.limit((head * held + prefix + rows) * rowBytes)
                array.position((head * held + prefix) * rowBytes)
                digest.update(array)
            }
        }
        return BundleFiles.hexadecimal(digest.digest())
    }

    /** Whether a path through rows that are not adjacent agrees with the same path run as a chain. */
    private fun treeAgrees(width: Int): Boolean {
        val anchor = tokens[prefix]
        val sibling = tokens[prefix + 1]
        val path = tokens.copyOfRange(prefix + 2, prefix + width)
        model.cache.rollback(prefix)
        val chain = model.forward(intArrayOf(anchor) + path + sibling)
        val expected = (0 until width - 1).map { at -> FloatArray(row.size).also { chain.read(at, it) } }
        model.cache.rollback(prefix)
        val parents = IntArray(width) { if (it < 3) minOf(it, 1) - 1 else it - 1 }
        val tree = model.forward(intArrayOf(anchor, sibling) + path, parents)
        return expected.indices.all { at ->
            tree.read(if (at == 0) 0 else at + 1, row)
            bytes(row).contentEquals(bytes(expected[at]))
        }
    }

    private fun bytes(values: FloatArray): ByteArray {
        val bytes = ByteBuffer.allocate(values.size * Float.SIZE_BYTES)
        bytes.asFloatBuffer().put(values)
        return bytes.array()
    }

    private companion object {
        /** Long enough for keys to span several vector registers and more than one block of a blocked softmax. */
        const val PREFIX_ROWS = 40

        /** A row and its padding. */
        const val PLAIN_ROWS = 2

        /** The smallest tree that can differ from a chain: the anchor, two children, and a path below the second. */
        const val TREE_ROWS = 6
    }
}
